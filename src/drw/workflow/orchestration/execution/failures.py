"""Classes of failures: the only place that decides from an error or an HTTP answer whether a call may be repeated.

A failure is transient, permanent, a matter of policy or of budget, or ambiguous: the call may have had its effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from drw.api.workflow.v1.orchestration_pb2 import AMBIGUOUS, BUDGET, PERMANENT, POLICY, TRANSIENT, FailureClass
from drw.kernel.errors import (
    HTTP,
    NEVER,
    Conflict,
    DeadlineExceeded,
    DrwError,
    Forbidden,
    InternalError,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from drw.workflow.orchestration.ports import NotSent


class _Classes(NamedTuple):
    """The class of an error of a call that is safe to repeat, and of one that is not."""

    repeatable: FailureClass
    once: FailureClass


FAILURES: dict[type[DrwError], _Classes] = {
    InvalidRequest: _Classes(PERMANENT, PERMANENT),
    NotFound: _Classes(PERMANENT, PERMANENT),
    Conflict: _Classes(PERMANENT, PERMANENT),
    Unauthenticated: _Classes(POLICY, POLICY),
    Forbidden: _Classes(POLICY, POLICY),
    RateLimited: _Classes(TRANSIENT, TRANSIENT),  # refused before it had an effect
    NotSent: _Classes(TRANSIENT, TRANSIENT),
    Unavailable: _Classes(TRANSIENT, AMBIGUOUS),
    DeadlineExceeded: _Classes(TRANSIENT, AMBIGUOUS),
    Unimplemented: _Classes(PERMANENT, PERMANENT),
    InternalError: _Classes(PERMANENT, AMBIGUOUS),
    DrwError: _Classes(PERMANENT, AMBIGUOUS),
}
"""Classes by error class; the nearest base class applies."""

CODES: dict[str, FailureClass] = {"insufficient_quota": BUDGET, "content_filter": POLICY}
"""Classes by the error code of OpenAI's API, which is more precise than the class of the error."""

STATUSES: dict[int, type[DrwError]] = {form.status: cls for cls, form in reversed(HTTP.items())} | {
    402: RateLimited,
    408: Unavailable,
    425: RateLimited,
    451: Forbidden,
    500: Unavailable,
    505: Unimplemented,
}
"""Error classes of HTTP status codes. Source: RFC 9110, section 15, and RFC 6585. A 500 of another system may be gone
at the next attempt."""


def classify(error: DrwError, *, repeatable: bool) -> FailureClass:
    """Return the class of a failed call; `repeatable`: calling twice has the effect of calling once."""
    if failure_class := CODES.get(error.metadata.get("code", "")):
        return failure_class
    if error.metadata.get("retry_after") == NEVER:
        return PERMANENT
    classes = next(FAILURES[cls] for cls in type(error).__mro__ if cls in FAILURES)
    return classes.repeatable if repeatable else classes.once


def error_from_http(status: int, message: str, headers: Mapping[str, str], code: str = "") -> DrwError:
    """Return the error of an HTTP answer of another system; `code` is the error code of its body, if it has one.

    `headers` are in lower case.
    """
    cls = STATUSES.get(status) or (Unavailable if status >= 500 else InvalidRequest)
    metadata = {"status": str(status)}
    if code or status == 402:
        metadata["code"] = code or "insufficient_quota"
    if (seconds := retry_after(headers.get("retry-after", ""))) is not None:
        metadata["retry_after"] = f"{seconds:g}"
    return cls(message, **metadata)


def retry_after(value: str) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None if it is neither."""
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else _seconds_until(value)
    except (ValueError, TypeError):
        return None


def _seconds_until(date: str) -> float:
    at = parsedate_to_datetime(date)
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
