"""Child process that renders one chat template, for `chat_template`.

Started as `python -I -m drw.model_files.template_process MEMORY CPU_SECONDS OUTPUT`. The request is JSON on
standard input: {"template", "variables", "characters"}. The answer is {"prompt": text}, {"failure": message} if the
template does not accept the messages, or {"error": message}.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.exceptions import SecurityError

PR_SET_PDEATHSIG = 1
MAX_ERROR = 300


class TooLong(Exception):
    """The output exceeds its limit."""


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox. A forbidden attribute is an error; Jinja itself renders it as an empty text."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object")


class Generation(jinja2.ext.Extension):
    """`{% generation %}`: Transformers marks the text of the assistant with it. It renders its content."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main(memory: int, cpu_seconds: int, output: int) -> None:
    """Answer the request."""
    _confine(memory, cpu_seconds, output)
    sys.stdout.write(json.dumps(_answer(json.load(sys.stdin))))


def _confine(memory: int, cpu_seconds: int, output: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        return {"prompt": _render(request["template"], request["variables"], request["characters"])}
    except TooLong:
        return {"error": f"writes more than {request['characters']:,} characters"}
    except MemoryError:
        return {"error": "takes more memory than permitted"}
    except RecursionError:
        return {"error": "recurses without end"}
    except SecurityError as error:
        return {"error": f"is unsafe: {str(error)[:MAX_ERROR]}"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"is not valid Jinja: line {error.lineno}: {str(error.message)[:MAX_ERROR]}"}
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return {"failure": f"{type(error).__name__}: {str(error)[:MAX_ERROR]}"}


def _render(template: str, variables: dict[str, Any], characters: int) -> str:
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    rendered: list[str] = []
    length = 0
    for text in environment.from_string(template).generate(**variables):
        length += len(text)
        if length > characters:
            raise TooLong
        rendered.append(text)
    return "".join(rendered)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as it is: Jinja's filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
