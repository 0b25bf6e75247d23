"""The errors that services raise.

* DrwError
  x InvalidRequest
    + TooLarge
    + WrongVerb
    + UnknownEncoding
  x Unauthenticated
  x Forbidden
  x NotFound
  x Conflict
  x RateLimited        (retry later)
  x Unavailable        (retry: the call may or may not have run)
  x DeadlineExceeded
  x InternalError
    + Unimplemented

A service subclasses the nearest one and adds its own fields; the class name
travels with the error, so a caller in another process catches the same class.
The table at the end says how each looks to a client of OpenAI's API.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from grpc import StatusCode

from drw.api.kernel.v1.kernel_pb2 import ErrorInfo


class DrwError(Exception):
    """Base class of every error that a service raises on purpose."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        self.reason = type(self).__name__


class InvalidRequest(DrwError):
    """The request can never succeed as it is."""

    code = StatusCode.INVALID_ARGUMENT


class TooLarge(InvalidRequest):
    """The request, or something in it, is larger than the service takes."""


class WrongVerb(InvalidRequest):
    """There is something at this path, and it does not take this HTTP method."""


class UnknownEncoding(InvalidRequest):
    """The body is compressed in a way that nobody here reads."""


class Unauthenticated(DrwError):
    """Nobody is known to be calling."""

    code = StatusCode.UNAUTHENTICATED


class Forbidden(DrwError):
    """The caller is known, and may not do this."""

    code = StatusCode.PERMISSION_DENIED


class NotFound(DrwError):
    """The thing named in the request does not exist, or is not the caller's to see."""

    code = StatusCode.NOT_FOUND


class Conflict(DrwError):
    """The thing exists already, or changed in the meantime."""

    code = StatusCode.ALREADY_EXISTS


class RateLimited(DrwError):
    """The caller is over a limit; `retry_after` in the metadata says for how many seconds, or `NEVER`."""

    code = StatusCode.RESOURCE_EXHAUSTED
    retryable = True


class Unavailable(DrwError):
    """Something that the call needs does not answer; the call may or may not have run."""

    code = StatusCode.UNAVAILABLE
    retryable = True


class DeadlineExceeded(DrwError):
    """The time given for the call ran out."""

    code = StatusCode.DEADLINE_EXCEEDED


class InternalError(DrwError):
    """Something went wrong that the caller can do nothing about."""


class Unimplemented(InternalError):
    """The contract has the method, and this release does not."""

    code = StatusCode.UNIMPLEMENTED


class HttpForm(NamedTuple):
    """How a class of errors looks over HTTP."""

    status: int
    type: str
    code: str


HTTP: dict[type[DrwError], HttpForm] = {
    TooLarge: HttpForm(413, "invalid_request_error", "request_too_large"),
    WrongVerb: HttpForm(405, "invalid_request_error", "method_not_allowed"),
    UnknownEncoding: HttpForm(415, "invalid_request_error", "unsupported_media_type"),
    InvalidRequest: HttpForm(400, "invalid_request_error", "invalid_request"),
    Unauthenticated: HttpForm(401, "authentication_error", "invalid_api_key"),
    Forbidden: HttpForm(403, "permission_error", "permission_denied"),
    NotFound: HttpForm(404, "not_found_error", "not_found"),
    Conflict: HttpForm(409, "conflict_error", "conflict"),
    RateLimited: HttpForm(429, "rate_limit_error", "rate_limit_exceeded"),
    Unavailable: HttpForm(503, "service_unavailable_error", "service_unavailable"),
    DeadlineExceeded: HttpForm(504, "timeout_error", "deadline_exceeded"),
    Unimplemented: HttpForm(501, "not_implemented_error", "unimplemented"),
    InternalError: HttpForm(500, "server_error", "internal_error"),
}
"""Status, type and code by class; the nearest base counts. Shapes: OpenAI API reference, "Error codes"."""


def http_form(error: DrwError) -> HttpForm:
    """Return how the error looks over HTTP."""
    return next((HTTP[c] for c in type(error).__mro__ if c in HTTP), HTTP[InternalError])


def http_body(error: DrwError) -> dict[str, Any]:
    """Return the error as the JSON body of an answer, in OpenAI's shape.

    `code` and `param` in the metadata replace the class's own code and name the field at fault.
    """
    form = http_form(error)
    return {
        "error": {
            "message": error.message,
            "type": form.type,
            "param": error.metadata.get("param"),
            "code": error.metadata.get("code", form.code),
        }
    }


HEADERS = ("allow", "accept-encoding")
"""Values of the metadata that are headers of the answer: what the path takes instead."""

NEVER = "never"
"""In place of the seconds of `retry_after`: what is refused now is refused at any time."""


def http_headers(error: DrwError) -> dict[str, str]:
    """Return the headers that go with the error: when to come back, where that is known; "never": no time helps."""
    said = {name: error.metadata[name] for name in HEADERS if name in error.metadata}
    if after := error.metadata.get("retry_after"):
        return said | ({"retry-after": after} if after != NEVER else {})
    return said | ({"retry-after": "1"} if isinstance(error, Unavailable | RateLimited) else {})


MESSAGE_BYTES, METADATA_BYTES, METADATA_VALUES = 1_200, 300, 8
"""How much of an error travels: gRPC drops answers whose trailers have over 8 KiB, in which it triples some bytes."""


def to_wire(error: DrwError, service: str) -> tuple[str, bytes]:
    """Return the message, and what travels beside it and the status code."""
    metadata = {k: _cut(v, METADATA_BYTES) for k, v in list(error.metadata.items())[:METADATA_VALUES]}
    info = ErrorInfo(reason=error.reason, service=service, metadata=metadata)
    return _cut(error.message, MESSAGE_BYTES), info.SerializeToString()


def from_wire(code: StatusCode, message: str, info: bytes | None) -> DrwError:
    """Return the error that the service raised, or the nearest class by its code."""
    by_code = next((c for c in _classes(DrwError) if c.code == code and c.code != StatusCode.INTERNAL), InternalError)
    if info is None:
        return _make(by_code, message, {}, by_code.__name__)
    detail = ErrorInfo.FromString(info)
    cls = next((c for c in _classes(DrwError) if c.__name__ == detail.reason), by_code)
    return _make(cls, message, dict(detail.metadata), detail.reason)


def _cut(text: str, most: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= most else data[:most].decode(errors="ignore") + "..."


def _make(cls: type[DrwError], message: str, metadata: dict[str, str], reason: str) -> DrwError:
    error = cls.__new__(cls)
    DrwError.__init__(error, message, **metadata)
    error.reason = reason  # kept where this process does not know the class
    return error


def _classes(cls: type[DrwError]) -> list[type[DrwError]]:
    return [s for c in cls.__subclasses__() for s in (c, *_classes(c))]
