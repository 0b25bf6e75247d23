"""Settings of the live view."""

from __future__ import annotations

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """How long things take here, in seconds."""

    keep_ended_seconds: int = 24 * 3600
    """How long the live view keeps a run that has ended; afterwards it is made again when somebody asks."""
    appear_seconds: float = 3.0
    """How long a run that nobody has heard of may take to appear: its first event may still be under way."""
    quiet_seconds: float = 15.0
    """After so long without an event the stream says that it is alive."""
    wait_seconds: float = 2.0
    """How long one question to the live view waits; also how soon its loss is noticed."""
