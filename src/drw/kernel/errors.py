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
  x ConfigError        (at start only)

A service subclasses the nearest one and adds its own fields; the class name
travels with the error, so a caller in another process catches the same class.
The table at the end says how each looks to a client of OpenAI's API.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple


class DrwError(Exception):
    """Base class of every error that a service raises on purpose."""

    code: ClassVar[str] = "INTERNAL"
    """The name of gRPC's status code; a name, so that the command line need not load gRPC to report an error."""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        self.reason = type(self).__name__


class ClientGone(Exception):
    """The caller has disconnected. It is no `DrwError`, since nobody is left to be told."""


class InvalidRequest(DrwError):
    """The request can never succeed as it is."""

    code = "INVALID_ARGUMENT"


class TooLarge(InvalidRequest):
    """The request, or something in it, is larger than the service takes."""


class MethodNotAllowed(InvalidRequest):
    """There is something at this path, and it does not take this HTTP method."""


class UnsupportedEncoding(InvalidRequest):
    """The content encoding of the body is not supported."""


class Unauthenticated(DrwError):
    """Nobody is known to be calling."""

    code = "UNAUTHENTICATED"


class Forbidden(DrwError):
    """The caller is not permitted to do this."""

    code = "PERMISSION_DENIED"


class NotFound(DrwError):
    """The thing named in the request does not exist, or is not the caller's to see."""

    code = "NOT_FOUND"


class Conflict(DrwError):
    """The thing exists already, or changed in the meantime."""

    code = "ALREADY_EXISTS"


class RateLimited(DrwError):
    """The caller is over a limit; the metadata `retry_after` is the number of seconds, or `NEVER`."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(DrwError):
    """A dependency does not answer; the call may or may not have run."""

    code = "UNAVAILABLE"
    retryable = True


class DeadlineExceeded(DrwError):
    """The time given for the call ran out."""

    code = "DEADLINE_EXCEEDED"


class ConfigError(DrwError):
    """The configuration names something that does not exist, or lacks something."""


class InternalError(DrwError):
    """Something went wrong that the caller can do nothing about."""


class Unimplemented(InternalError):
    """The contract has the method, and this release does not."""

    code = "UNIMPLEMENTED"


class HttpForm(NamedTuple):
    """How a class of errors looks over HTTP."""

    status: int
    type: str
    code: str


HTTP: dict[type[DrwError], HttpForm] = {
    TooLarge: HttpForm(413, "invalid_request_error", "request_too_large"),
    MethodNotAllowed: HttpForm(405, "invalid_request_error", "method_not_allowed"),
    UnsupportedEncoding: HttpForm(415, "invalid_request_error", "unsupported_media_type"),
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
"""Metadata that becomes response headers."""

NEVER = "never"
"""Value of `retry_after` for requests that never succeed."""


def http_headers(error: DrwError) -> dict[str, str]:
    """Return the headers that go with the error: when to come back, where that is known; "never": no time helps."""
    headers = {name: error.metadata[name] for name in HEADERS if name in error.metadata}
    if after := error.metadata.get("retry_after"):
        return headers | ({"retry-after": after} if after != NEVER else {})
    return headers | ({"retry-after": "1"} if isinstance(error, Unavailable | RateLimited) else {})
