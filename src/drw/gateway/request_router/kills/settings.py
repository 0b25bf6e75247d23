"""Settings of the kill switch: required approvals and limits of kills."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drw.kernel.runtime.settings import Settings


class KillApprovals(Settings):
    """Number of principals that must approve."""

    kill: int = Field(default=1, ge=1, le=5)
    """Principals required for a kill."""
    lift: int = Field(default=1, ge=1, le=5)
    """Principals required to lift a kill."""


class KillPolicy(Settings):
    """Required approvals for each kind of subject: the setting `kill_approvals`."""

    key: KillApprovals = KillApprovals()
    desk: KillApprovals = KillApprovals()
    model: KillApprovals = KillApprovals()
    workflow: KillApprovals = KillApprovals()

    def of(self, subject: str) -> KillApprovals:
        """Return the required approvals for a kind of subject, as in "MODEL"."""
        approvals: KillApprovals = getattr(self, subject.lower())
        return approvals


class KillLimits(Settings):
    """The setting `kill_limits`: maximum number of active and proposed kills. Data planes hold active kills."""

    per_org: int = Field(default=100, ge=1, le=10_000)
    """Kills of one org, active or proposed."""
    total: int = Field(default=2000, ge=1, le=10_000)
    """Kills of all orgs together."""
    reserve: int = Field(default=200, ge=0, le=10_000)
    """Part of the total that only platform administrators can use."""

    @model_validator(mode="after")
    def _check_reserve(self) -> Self:
        if self.reserve >= self.total:
            raise ValueError(f"kill_limits: the reserve is {self.reserve}; it must be below the total, {self.total}")
        return self
