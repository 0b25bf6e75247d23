"""A batch: its record, and its object in OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import Principal

NEW_WORK = "serving_batches"
"""Notifies workers of new batches and lines."""
COMPLETION_WINDOW = "24h"
WINDOW_HOURS = 24
ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")
TIMES = (
    *("created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at"),
    *("cancelling_at", "cancelled_at"),
)


class BatchNotFound(NotFound):
    """The desk has no batch of this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The record of a batch."""

    number: int
    id: str
    org: str
    desk: str
    key: str
    scopes: Sequence[str]
    walls: Sequence[str]
    endpoint: str
    input_file: str
    metadata: Mapping[str, str]
    trace: str
    state: str
    ending: str
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None
    cancelling_at: datetime | None
    cancelled_at: datetime | None
    errors: Sequence[Mapping[str, Any]]
    model: str
    output_file: str
    error_file: str
    total: int
    completed: int
    failed: int
    output_bytes: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    attempts: int
    lease: int | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Batch:
        """Return the batch of a row."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def files_principal(self) -> Principal:
        """The caller for the batch's files: the creator inside the walls of the batch, with the scopes of this work."""
        scopes = frozenset({"documents:read", "documents:write"})
        return Principal(self.org, self.desk, self.key, scopes, frozenset(self.walls))

    def body(self) -> dict[str, Any]:
        """Return the batch object of OpenAI's API."""
        times = {name: _seconds(getattr(self, name)) for name in TIMES}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model or None,
            "errors": {"object": "list", "data": list(self.errors)} if self.errors else None,
            "input_file_id": self.input_file,
            "completion_window": COMPLETION_WINDOW,
            "status": self.state,
            "output_file_id": self.output_file or None,
            "error_file_id": self.error_file or None,
            **times,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": self._usage(),
            "metadata": dict(self.metadata) or None,
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
