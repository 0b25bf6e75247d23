"""Settings of templates."""

from __future__ import annotations

from pathlib import Path

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """The folder of the operator's templates."""

    folder: Path | None = None
    """A folder of .yaml files. Without it only the shipped templates exist."""
