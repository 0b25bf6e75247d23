"""Settings of upstreams."""

from __future__ import annotations

from pydantic import Field, field_validator

from drw.egress.allowlist import EgressAllowlist
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import Settings as Base


class UpstreamSettings(Base):
    """An upstream that is not a process of the profile."""

    addresses: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Where it answers, each as in 'host:port' or 'unix:/path'."""
    services: tuple[str, ...] = ()
    """The services of the platform that answer there."""


class Settings(Base):
    """Settings of the load balancer: additional upstreams by name, and allowed addresses."""

    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict)
    allowed_upstreams: tuple[str, ...] = ()
    """As `drw.egress.allowlist.EgressAllowlist` reads it; the processes of the profile need no entry."""

    @field_validator("allowed_upstreams")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            EgressAllowlist(value)
        except InvalidRequest as error:
            raise ValueError(error.message) from error
        return value
