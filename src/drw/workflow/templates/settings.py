"""Settings of templates."""

from __future__ import annotations

from pathlib import Path

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Where the operator's own templates are."""

    folder: Path | None = None
    """A folder of .yaml files; without one there are the shipped templates only."""
