"""Permits of stored versions: whether the approved validation record of a version is valid now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from drw.api.models.v1.discovery_pb2 import Permit
from drw.routing import permits
from drw.routing.permits import ModelNotValidated

Row = dict[str, Any]


def refusal(row: Row) -> str:
    """Return why no traffic may reach a version; empty: it may. The row is of `version_state`."""
    now = datetime.fromtimestamp(permits.now(), UTC)
    if row["retired_at"] is not None:
        return f"it was retired: {row['retire_reason']}"
    if row["validation"] is None:
        waiting = "; its record waits for approval" if row["waiting_key"] is not None else ""
        return f"it has no approved validation record{waiting}"
    if row["revoked_at"] is not None:
        return f"its validation was revoked: {row['revoke_reason']}"
    if row["expires_at"] <= now:
        return f"its validation record expired on {row['expires_at']:%Y-%m-%d %H:%M} UTC"
    if row["overdue_at"] is not None and row["overdue_at"] <= now:
        return f"a finding of high severity is overdue since {row['overdue_at']:%Y-%m-%d %H:%M} UTC"
    return ""


def permit(row: Row, seconds: float = float("inf")) -> Permit:
    """Return the permit of a version for at most `seconds`.

    Raises:
        ModelNotValidated: no traffic may reach the version.
    """
    if reason := refusal(row):
        raise ModelNotValidated(row["id"], reason)
    ends = [row["expires_at"].timestamp(), permits.now() + seconds]
    if row["overdue_at"] is not None:
        ends.append(row["overdue_at"].timestamp())
    return Permit(validation=row["validation"], expires_at=int(min(ends)))
