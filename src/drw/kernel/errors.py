"""Error classes of the services, and their HTTP status.

* DrwError
  x InvalidRequest
    + TooLarge
    + MethodNotAllowed
    + UnsupportedEncoding
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

A service subclasses the nearest class and adds its own fields. The class name
is sent with the error, so a caller in another process catches the same class.
`HTTP` maps each class to the status and error code of OpenAI's API.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple


class DrwError(Exception):
    """Base class of every error that a service raises on purpose."""

    code: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code. A name, so that the command line can report errors without importing gRPC."""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        self.reason = type(self).__name__


class ClientDisconnected(Exception):
    """The caller has disconnected. Not a `DrwError`, because no response can be sent."""


class InvalidRequest(DrwError):
    """The request is invalid and fails again when it is repeated."""

    code = "INVALID_ARGUMENT"


class TooLarge(InvalidRequest):
    """The request, or a part of it, is larger than the maximum."""


class MethodNotAllowed(InvalidRequest):
    """The path exists and does not support this HTTP method."""


class UnsupportedEncoding(InvalidRequest):
    """The content encoding of the body is not supported."""


class Unauthenticated(DrwError):
    """The request has no valid credentials."""

    code = "UNAUTHENTICATED"


class Forbidden(DrwError):
    """The caller is not permitted to do this."""

    code = "PERMISSION_DENIED"


class NotFound(DrwError):
    """The object named in the request does not exist, or the caller cannot see it."""

    code = "NOT_FOUND"


class Conflict(DrwError):
    """The object exists already, or another request changed it."""

    code = "ALREADY_EXISTS"


class RateLimited(DrwError):
    """The caller has exceeded a limit; the metadata `retry_after` is the number of seconds, or `NEVER`."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(DrwError):
    """A dependency does not respond; the call may or may not have run."""

    code = "UNAVAILABLE"
    retryable = True


class DeadlineExceeded(DrwError):
    """The call did not end before its deadline."""

    code = "DEADLINE_EXCEEDED"


class ConfigError(DrwError):
    """A setting is missing, unknown or wrong."""


class InternalError(DrwError):
    """An unexpected error that the caller cannot fix."""


class Unimplemented(InternalError):
    """The contract has the method; this release does not implement it."""

    code = "UNIMPLEMENTED"


class HttpError(NamedTuple):
    """HTTP status, error type and error code of a class of errors."""

    status: int
    type: str
    code: str


HTTP: dict[type[DrwError], HttpError] = {
    TooLarge: HttpError(413, "invalid_request_error", "request_too_large"),
    MethodNotAllowed: HttpError(405, "invalid_request_error", "method_not_allowed"),
    UnsupportedEncoding: HttpError(415, "invalid_request_error", "unsupported_media_type"),
    InvalidRequest: HttpError(400, "invalid_request_error", "invalid_request"),
    Unauthenticated: HttpError(401, "authentication_error", "invalid_api_key"),
    Forbidden: HttpError(403, "permission_error", "permission_denied"),
    NotFound: HttpError(404, "not_found_error", "not_found"),
    Conflict: HttpError(409, "conflict_error", "conflict"),
    RateLimited: HttpError(429, "rate_limit_error", "rate_limit_exceeded"),
    Unavailable: HttpError(503, "service_unavailable_error", "service_unavailable"),
    DeadlineExceeded: HttpError(504, "timeout_error", "deadline_exceeded"),
    Unimplemented: HttpError(501, "not_implemented_error", "unimplemented"),
    InternalError: HttpError(500, "server_error", "internal_error"),
}
"""Status, type and code by class; the nearest base class applies. Source: OpenAI API reference, "Error codes"."""


def http_error(error: DrwError) -> HttpError:
    """Return the HTTP status, error type and error code of an error."""
    return next((HTTP[c] for c in type(error).__mro__ if c in HTTP), HTTP[InternalError])


def http_body(error: DrwError) -> dict[str, Any]:
    """Return the error as the JSON body of a response, in OpenAI's format.

    `code` in the metadata replaces the code of the class; `param` names the invalid field.
    """
    form = http_error(error)
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
    """Return the response headers of an error. `retry-after` is omitted if a retry never succeeds (`NEVER`)."""
    headers = {name: error.metadata[name] for name in HEADERS if name in error.metadata}
    if after := error.metadata.get("retry_after"):
        return headers | ({"retry-after": after} if after != NEVER else {})
    return headers | ({"retry-after": "1"} if isinstance(error, Unavailable | RateLimited) else {})
