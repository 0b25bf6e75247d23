"""The error for a damaged log."""

from __future__ import annotations

from drw.kernel.errors import InternalError


class LogDamaged(InternalError):
    """The log is damaged; the message contains the first problem and its position."""
