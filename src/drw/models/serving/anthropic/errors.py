"""Anthropic's error format: statuses, error types and bodies.

Source: Anthropic API reference, "Errors".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from starlette.responses import Response

from drw.kernel.errors import (
    Conflict,
    DeadlineExceeded,
    DrwError,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedEncoding,
    http_headers,
)
from drw.models.serving.errors import QUOTA

REQUEST_ID = "request-id"
"""The response header of Anthropic's API with the id of a request."""


class Form(NamedTuple):
    """Status and error type of a class of errors."""

    status: int
    type: str


FORMS: dict[type[DrwError], Form] = {
    TooLarge: Form(413, "request_too_large"),
    MethodNotAllowed: Form(405, "invalid_request_error"),
    UnsupportedEncoding: Form(415, "invalid_request_error"),
    InvalidRequest: Form(400, "invalid_request_error"),
    Unauthenticated: Form(401, "authentication_error"),
    Forbidden: Form(403, "permission_error"),
    NotFound: Form(404, "not_found_error"),
    Conflict: Form(409, "conflict_error"),
    RateLimited: Form(429, "rate_limit_error"),
    Unavailable: Form(529, "overloaded_error"),
    DeadlineExceeded: Form(504, "timeout_error"),
    InternalError: Form(500, "api_error"),
}
"""Form by class; the nearest base class applies."""
BILLING = Form(402, "billing_error")
"""The form of budgets and quotas that are used up: official clients do not repeat such a request."""


def error_form(error: DrwError) -> Form:
    """Return the status and the error type of an error."""
    if error.metadata.get("code") == QUOTA:
        return BILLING
    return next((FORMS[cls] for cls in type(error).__mro__ if cls in FORMS), FORMS[InternalError])


def error_body(error: DrwError, request_id: str) -> dict[str, Any]:
    """Return the error in Anthropic's format."""
    problem = {"type": error_form(error).type, "message": error.message}
    return {"type": "error", "error": problem, "request_id": request_id or None}


def error_response(error: DrwError, request_id: str) -> Response:
    """Return the error as a response."""
    headers = http_headers(error) | ({REQUEST_ID: request_id} if request_id else {})
    body = orjson.dumps(error_body(error, request_id))
    return Response(body, error_form(error).status, headers=headers, media_type="application/json")
