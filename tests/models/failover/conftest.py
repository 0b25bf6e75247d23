"""The fixture that runs a case."""

from __future__ import annotations

from models.failover.world import in_world

__all__ = ["in_world"]
