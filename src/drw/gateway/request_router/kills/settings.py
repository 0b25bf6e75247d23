"""Settings of the kill switch: how many persons a kill or a lift takes, and how many kills there can be."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drw.kernel.runtime.settings import Settings


class KillApprovals(Settings):
    """How many persons, that is principals, it takes."""

    kill: int = Field(default=1, ge=1, le=5)
    """Persons that it takes to kill."""
    lift: int = Field(default=1, ge=1, le=5)
    """Persons that it takes to lift a kill."""


class KillPolicy(Settings):
    """`kill_approvals`, for each kind of subject."""

    key: KillApprovals = KillApprovals()
    desk: KillApprovals = KillApprovals()
    model: KillApprovals = KillApprovals()
    workflow: KillApprovals = KillApprovals()

    def of(self, subject: str) -> KillApprovals:
        """Return those of a subject, as in "MODEL"."""
        approvals: KillApprovals = getattr(self, subject.lower())
        return approvals


class KillLimits(Settings):
    """`kill_limits`: how many kills are in force or proposed at most. Data planes hold those in force in memory."""

    per_org: int = Field(default=100, ge=1, le=10_000)
    """Kills of one org, in force or proposed."""
    total: int = Field(default=2000, ge=1, le=10_000)
    """Kills of all orgs together."""
    reserve: int = Field(default=200, ge=0, le=10_000)
    """What of the total only administrators of the platform use."""

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.reserve >= self.total:
            raise ValueError(f"kill_limits: the reserve is {self.reserve}; it must be below the total, {self.total}")
        return self
