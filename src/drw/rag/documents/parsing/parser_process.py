"""Parser process: a sandbox that parses untrusted files under limits of memory and time, for `parser_pool`.

Started as `python -m drw.rag.documents.parsing.parser_process MEBIBYTES`.

The protocol is one JSON object a line on standard input and output. A request is {"do": "check" | "pages" |
"attachments" | "decrypt", "file", "extension", "limits", "stop_after", "seconds", "password"}. Responses are {"page":
text} for each page, {"file": name, "size": bytes} for each attachment, {"bytes": base64} for each block of a file, then
{"end": true, "warnings": [...], "encoding": name} or {"error": message, "code": code}.

A hostile file is contained here: the process has bounded memory and time, cannot write files, and dies with its parent.
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

from drw.rag.documents.parsing.file_types import PARSER_BY_EXTENSION
from drw.rag.documents.parsing.pages import normalize
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

PR_SET_PDEATHSIG = 1
RUST_PANIC = "PanicException"
"""The name of pyo3's class, which is no subclass of Exception and cannot be imported."""
BLOCK_BYTES = 1 << 20
MAX_WARNINGS = 50
MAX_MESSAGE_CHARACTERS = 500
"""Maximum length of a warning or error, which may quote a name from the file."""
Message = dict[str, Any]


def main(mebibytes: int) -> None:
    """Serve requests until standard input is closed."""
    output = _redirect_stdout()
    _limit_resources(mebibytes)
    for line in sys.stdin.buffer:
        for response in _responses(orjson.loads(line)):
            output.write(orjson.dumps(response) + b"\n")
            output.flush()


def _redirect_stdout() -> BinaryIO:
    """Return standard output for responses, and redirect what libraries print to standard error."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


def _limit_resources(mebibytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _responses(request: Message) -> Iterator[Message]:
    _limit_cpu_time(request["seconds"])
    try:
        yield from _handle(request)
    except ParseFailed as error:
        yield {"error": error.message[:MAX_MESSAGE_CHARACTERS], "code": error.code}
    except MemoryError:
        yield {"error": "reading this file takes more memory than a file may", "code": "invalid_file"}
    except OSError as error:
        yield {"error": f"this file cannot be read: {error.strerror or type(error).__name__}", "code": "invalid_file"}
    except BaseException as error:  # a panic of a parser in Rust is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        yield {"error": f"this file cannot be read: its parser failed ({_location(error)})", "code": "invalid_file"}


def _location(error: BaseException) -> str:
    """Return the class and source location of an error, without its text, which may quote the file."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _handle(request: Message) -> Iterator[Message]:
    file = Path(request["file"])
    extension = request["extension"]
    limits = ParserLimits(**request["limits"])
    parser = _load_parser(extension)
    match request["do"]:
        case "check":
            parser.check(file, extension, limits)
        case "attachments":
            for attachment in parser.attachments(file, extension, limits):
                yield {"file": attachment.name, "size": len(attachment.content)}
                yield from _base64_blocks(attachment.content)
        case "decrypt":
            yield from _base64_blocks(parser.decrypt(file, extension, request["password"]))
        case _:
            yield from _pages(parser, request, limits)
    warnings = [warning[:MAX_MESSAGE_CHARACTERS] for warning in parser.warnings[:MAX_WARNINGS]]
    yield {"end": True, "warnings": warnings, "encoding": parser.encoding}


def _base64_blocks(content: bytes) -> Iterator[Message]:
    for start in range(0, len(content), BLOCK_BYTES):
        yield {"bytes": base64.b64encode(content[start : start + BLOCK_BYTES]).decode()}


def _pages(parser: Parser, request: Message, limits: ParserLimits) -> Iterator[Message]:
    file = Path(request["file"])
    extension = request["extension"]
    number = 0
    characters = 0
    for page in parser.pages(file, extension, limits):
        number, characters = number + 1, characters + len(page)
        if number > limits.pages:
            raise ParseFailed(f"this file has more than {limits.pages:,} pages")
        if characters > limits.characters:
            raise ParseFailed(f"this file has more than {limits.characters:,} characters of text")
        yield {"page": normalize(page)}
        if request["stop_after"] and characters >= request["stop_after"]:
            break


def _load_parser(extension: str) -> Parser:
    module = importlib.import_module(f"drw.rag.documents.adapters.{PARSER_BY_EXTENSION[extension]}")
    (parser_class,) = (
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Parser) and c.__module__ == module.__name__
    )
    parser: Parser = parser_class()
    return parser


def _limit_cpu_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(int(sys.argv[1]))
