"""What is raised where a log does not hold what was once written."""

from __future__ import annotations

from drw.kernel.errors import InternalError


class LogDamaged(InternalError):
    """The log is not what was written; the message says what was found first, and where."""
