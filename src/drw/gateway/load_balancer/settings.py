"""Settings of upstreams."""

from __future__ import annotations

from pydantic import Field, field_validator

from drw.egress.allowlist import EgressAllowlist
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import Settings as Base


class UpstreamSettings(Base):
    """An upstream that is not a process of the profile."""

    addresses: tuple[str, ...] = Field(min_length=1, max_length=64)
    """Addresses of the upstream, as in 'host:port' or 'unix:/path'."""
    services: tuple[str, ...] = ()
    """Services of the platform that the upstream runs."""


class Settings(Base):
    """Settings of the load balancer: additional upstreams by name, and allowed addresses."""

    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict)
    allowed_upstreams: tuple[str, ...] = ()
    """Entries of `drw.egress.allowlist.EgressAllowlist`. The processes of the profile need no entry."""

    @field_validator("allowed_upstreams")
    @classmethod
    def _check_entries(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            EgressAllowlist(value)
        except InvalidRequest as error:
            raise ValueError(error.message) from error
        return value
