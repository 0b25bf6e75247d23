"""Parser process: parses files under limits of memory and time, for `parser_pool`.

Started as `python -m drw.rag.documents.parsing.parser_process MEBIBYTES`.

Requests and answers are JSON, one a line. A request is {"do": "check" | "pages" | "embedded" | "decrypted",
"file", "kind", "limits", "enough", "seconds", "password"}. The answers are {"page": text} for each page,
{"file": name, "size": bytes} for each embedded file, {"bytes": base64} for each piece of one, then {"end": true,
"warnings": [...], "encoding": name} or {"refused": message, "code": code}. A hostile file is contained here: the
process has bounded memory and time, cannot write files, and dies with its parent.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import inspect
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from drw.rag.documents.parsing.file_types import BY_KIND
from drw.rag.documents.parsing.pages import tidied
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

PR_SET_PDEATHSIG = 1
RUST_PANIC = "PanicException"
"""The class of pyo3 for it: no subclass of Exception, and with no address to import it from."""
PIECE = 1 << 20
MAX_WARNINGS = 50
MAX_CHARACTERS = 500
"""Of a warning, or a reason: it may quote a name that the file gives."""
Answer = dict[str, Any]


def main(mebibytes: int) -> None:
    """Answer requests until there are no more."""
    answers = _own_output()
    _confine(mebibytes)
    for line in sys.stdin.buffer:
        for answer in _answers(orjson.loads(line)):
            answers.write(orjson.dumps(answer) + b"\n")
            answers.flush()


def _own_output() -> BinaryIO:
    """Keep the answers apart from whatever a library prints."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _confine(mebibytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _answers(request: Answer) -> Iterator[Answer]:
    _grant_time(request["seconds"])
    try:
        yield from _done(request)
    except ParseFailed as error:
        yield {"refused": error.message[:MAX_CHARACTERS], "code": error.code}
    except MemoryError:
        yield {"refused": "reading this file takes more memory than a file may", "code": "invalid_file"}
    except OSError as error:
        yield {"refused": f"this file cannot be read: {error.strerror or type(error).__name__}", "code": "invalid_file"}
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        yield {"refused": f"this file cannot be read: its parser failed ({_fault(error)})", "code": "invalid_file"}


def _fault(error: BaseException) -> str:
    """Return the class and the place of an error, without its text, which may quote the file."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _done(request: Answer) -> Iterator[Answer]:
    file = Path(request["file"])
    kind = request["kind"]
    limits = ParserLimits(**request["limits"])
    parser = _parser(kind)
    match request["do"]:
        case "check":
            parser.check(file, kind, limits)
        case "embedded":
            for embedded in parser.embedded(file, kind, limits):
                yield {"file": embedded.name, "size": len(embedded.content)}
                yield from _bytes(embedded.content)
        case "decrypted":
            yield from _bytes(parser.decrypted(file, kind, request["password"]))
        case _:
            yield from _pages(parser, request, limits)
    warnings = [warning[:MAX_CHARACTERS] for warning in parser.warnings[:MAX_WARNINGS]]
    yield {"end": True, "warnings": warnings, "encoding": parser.encoding}


def _bytes(content: bytes) -> Iterator[Answer]:
    for start in range(0, len(content), PIECE):
        yield {"bytes": base64.b64encode(content[start : start + PIECE]).decode()}


def _pages(parser: Parser, request: Answer, limits: ParserLimits) -> Iterator[Answer]:
    file = Path(request["file"])
    kind = request["kind"]
    number = 0
    characters = 0
    for page in parser.pages(file, kind, limits):
        number, characters = number + 1, characters + len(page)
        if number > limits.pages:
            raise ParseFailed(f"this file has more than {limits.pages:,} pages")
        if characters > limits.characters:
            raise ParseFailed(f"this file has more than {limits.characters:,} characters of text")
        yield {"page": tidied(page)}
        if request["enough"] and characters >= request["enough"]:
            break


def _parser(kind: str) -> Parser:
    module = importlib.import_module(f"drw.rag.documents.adapters.{BY_KIND[kind]}")
    (parser_class,) = (
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Parser) and c.__module__ == module.__name__
    )
    parser: Parser = parser_class()
    return parser


def _grant_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(int(sys.argv[1]))
