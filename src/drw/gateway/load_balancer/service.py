"""Knows where each upstream answers, and how to spread requests over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic import Field

from drw.api.gateway.v1 import load_balancer_rpc as contract
from drw.api.gateway.v1.load_balancer_pb2 import ListUpstreamsRequest, Upstream, Upstreams, WatchUpstreamsRequest
from drw.gateway.load_balancer.upstreams import More, from_profile
from drw.kernel.host import Scope
from drw.kernel.settings import Settings as Base


class Settings(Base):
    """Upstreams besides the processes of the profile, by name."""

    upstreams: dict[str, More] = Field(default_factory=dict)


class LoadBalancer(contract.LoadBalancer):
    """Serves `drw.api.gateway.v1.LoadBalancer`. Upstreams are fixed while the process runs."""

    def __init__(self, upstreams: list[Upstream]) -> None:
        self._upstreams = upstreams

    async def list_upstreams(self, request: ListUpstreamsRequest, /) -> Upstreams:
        """ListUpstreams lists where each upstream answers."""
        return Upstreams(upstreams=self._upstreams)

    async def watch_upstreams(self, request: WatchUpstreamsRequest, /) -> AsyncIterator[Upstreams]:
        """WatchUpstreams sends all upstreams: now, and after each change."""
        yield Upstreams(upstreams=self._upstreams)
        await asyncio.Event().wait()

    async def detail(self) -> str:
        """Return which upstreams there are."""
        return "upstreams: " + (", ".join(upstream.name for upstream in self._upstreams) or "none")


async def build(scope: Scope) -> LoadBalancer:
    """Make the service with what the configuration names."""
    settings = scope.settings(Settings)
    service = LoadBalancer(from_profile(scope.profile.http_places(), settings.upstreams))
    scope.describe(service.detail)
    return service
