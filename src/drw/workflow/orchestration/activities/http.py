"""The `http` activity: calls a host of the operator's allow-list, with bounds on size and time.

Messages of errors name the host and the status. The text of an answer is in the error of the run, and not in logs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field, field_validator

from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.observability.telemetry import QUOTES
from drw.kernel.rpc import context
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext
from drw.workflow.orchestration.execution.failures import error_from_http
from drw.workflow.orchestration.ports import HttpAnswer

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Source: RFC 9110, section 9.2.2."""
KEY_HEADER = "Idempotency-Key"
OWN_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "idempotency-key", "keep-alive"}
    | {"proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers that templates cannot set."""
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
MAX_HEADER_CHARACTERS = 8192
MAX_EXCERPT = 200
MAX_NESTING = 50
"""Answers with deeper JSON stay texts: expressions could not read them."""


class HttpArguments(Arguments):
    """The request, and the statuses that are a success."""

    url: str = Field(min_length=1)
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    query: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=50)
    headers: dict[str, str] = Field(default_factory=dict, max_length=50)
    body: Any = None
    """A text is sent as it is; another value as JSON."""
    expect: list[int] = Field(default_factory=list, max_length=20)
    """Statuses that are a success; empty: 200 to 299."""

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
                raise ValueError(f"the header {name[:100]!r} cannot be set")
            if len(value) > MAX_HEADER_CHARACTERS or not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"the header {name!r} must be at most {MAX_HEADER_CHARACTERS} printable characters")
        return headers


async def perform(services: Services, step_context: StepContext, arguments: HttpArguments) -> dict[str, Any]:
    """Return the status, the body and its type. A body of JSON is its value, another one a text.

    Raises:
        AddressNotAllowed: the host is not on the list.
        SecretNotPermitted: a secret cannot be sent to the host.
        NotSent: no request was sent.
        Unavailable, DeadlineExceeded: the connection was lost, or the answer did not arrive in time.
        DrwError: the status is not expected; `error_from_http` selects the class.
    """
    assert services.http is not None
    url = services.http.parse(arguments.url, arguments.query)
    services.secrets.check_host(context.caller(), step_context.secret_names, url.origin)
    headers, content = _message(arguments, step_context.key)
    answer = await services.http.send(url, arguments.method, headers, content, step_context.timeout_seconds)
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await asyncio.to_thread(_body, answer, content_type)
    if not (answer.status in arguments.expect if arguments.expect else 200 <= answer.status < 300):
        raise _unexpected(f"{arguments.method} to {url.shown!r} answered {answer.status}", answer, body)
    return {"status": answer.status, "content_type": content_type, "body": body}


def repeats_safely(values: Mapping[str, Any], key: str) -> bool:
    """Return whether a second request has no further effect: by its method, or by the author's idempotency key."""
    return bool(key) or values.get("method", "GET") in IDEMPOTENT_METHODS


def _message(arguments: HttpArguments, key: str) -> tuple[dict[str, str], bytes | None]:
    """Return the headers and the body of the request."""
    headers = dict(arguments.headers)
    content: bytes | None = None
    if arguments.body is not None:
        is_text = isinstance(arguments.body, str)
        content = arguments.body.encode() if is_text else orjson.dumps(arguments.body)
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "text/plain; charset=utf-8" if is_text else "application/json"
    if key:
        headers[KEY_HEADER] = key
    return headers, content


def _body(answer: HttpAnswer, content_type: str) -> Any:
    if content_type == "application/json" or content_type.endswith("+json"):
        try:
            value = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            value = None
        if value is not None and not _is_deeper(value, MAX_NESTING):
            return value
    return answer.content.decode(errors="replace").replace("\x00", "\ufffd")


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    while layer and levels:
        levels -= 1
        containers = [item for item in layer if isinstance(item, dict | list)]
        layer = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    return bool(layer)


def _unexpected(message: str, answer: HttpAnswer, body: Any) -> DrwError:
    text = body if isinstance(body, str) else orjson.dumps(body).decode()
    excerpt = " ".join(text[:MAX_EXCERPT].split())
    error = error_from_http(answer.status, f"{message}: {excerpt}" if excerpt else message, answer.headers)
    if 300 <= answer.status < 400:
        error = InvalidRequest(f"{message}: only redirects of GET and HEAD to listed hosts are followed")
    error.metadata[QUOTES] = "answer"
    return error


ACTIVITY = Activity(HttpArguments, (), perform, repeats_safely=repeats_safely)
