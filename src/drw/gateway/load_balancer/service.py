"""Stores upstreams: addresses, balancing, deadlines and circuit settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from drw.api.gateway.v1 import load_balancer_rpc as contract
from drw.api.gateway.v1.load_balancer_pb2 import (
    DeleteUpstreamRequest,
    DeleteUpstreamResponse,
    ListUpstreamsRequest,
    Upstream,
    Upstreams,
    WatchUpstreamsRequest,
)
from drw.egress.allowlist import EgressAllowlist
from drw.gateway.load_balancer import validation
from drw.gateway.load_balancer.settings import Settings
from drw.gateway.load_balancer.upstreams import from_profile, with_records
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, Unavailable
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import ConfigError
from drw.routing.resource_store import ResourceKind, ResourceStore

UPSTREAMS = ResourceKind(Upstream, "upstream", "load_balancer_changed")


class UpstreamNotFound(NotFound):
    """No upstream of this name was created by SetUpstream."""


class UpstreamIsFixed(Conflict):
    """The profile or the settings define the upstream."""


class LoadBalancer(contract.LoadBalancer):
    """Serves `drw.api.gateway.v1.LoadBalancer`."""

    def __init__(self, fixed: list[Upstream], allowlist: EgressAllowlist, records: ResourceStore[Upstream]) -> None:
        self._fixed = {upstream.name: upstream for upstream in fixed}
        self._allowlist = allowlist
        self._records = records

    async def list_upstreams(self, request: ListUpstreamsRequest, /) -> Upstreams:
        """ListUpstreams lists all upstreams by name."""
        upstreams, _ = await self._usable_upstreams()
        return Upstreams(upstreams=upstreams)

    async def set_upstream(self, request: Upstream, /) -> Upstream:
        """SetUpstream creates or replaces an upstream, and returns it."""
        validation.check(request)
        self._check_not_fixed(request.name)
        await asyncio.gather(*map(self._allowlist.check_resolved, request.addresses))
        record = Upstream()
        record.CopyFrom(request)
        record.origin = "record"
        await self._records.put(record.name, record)
        return next(upstream for upstream in with_records(self._fixed, [record]) if upstream.name == record.name)

    async def delete_upstream(self, request: DeleteUpstreamRequest, /) -> DeleteUpstreamResponse:
        """DeleteUpstream deletes an upstream that SetUpstream created."""
        self._check_not_fixed(request.name)
        if not await self._records.delete(request.name):
            raise UpstreamNotFound(f"there is no upstream {request.name[:80]!r}; `drw upstreams list` shows all")
        return DeleteUpstreamResponse()

    async def watch_upstreams(self, request: WatchUpstreamsRequest, /) -> AsyncIterator[Upstreams]:
        """WatchUpstreams streams all upstreams, now and after each change."""
        async with aclosing(self._records.changes()) as changes:
            async for _ in changes:
                upstreams, _ = await self._usable_upstreams()
                yield Upstreams(upstreams=upstreams)

    async def detail(self) -> str:
        """Return the names of the upstreams.

        Raises:
            Unavailable: a stored upstream is not used, since its address is no longer allowed.
        """
        upstreams, rejected = await self._usable_upstreams()
        text = "upstreams: " + (", ".join(upstream.name for upstream in upstreams) or "none")
        if rejected:
            raise Unavailable(f"{text}; left out: {'; '.join(rejected)}")
        return text

    async def _usable_upstreams(self) -> tuple[list[Upstream], list[str]]:
        """Return the upstreams, and the stored ones that the allow-list no longer allows, each with its error."""
        usable = []
        rejected = []
        for record in await self._records.all():
            try:
                for address in record.addresses:
                    self._allowlist.check(address)
                usable.append(record)
            except InvalidRequest as error:
                rejected.append(f"{record.name!r}: {error.message}")
        return with_records(self._fixed, usable), rejected

    def _check_not_fixed(self, name: str) -> None:
        if name in self._fixed:
            origin = self._fixed[name].origin
            raise UpstreamIsFixed(f"{name!r} is an upstream of the {origin}: change it there, or use another name")


async def _checked_allowlist(settings: Settings) -> EgressAllowlist:
    """Return the allow-list of the settings after checking the upstreams of the settings.

    Raises:
        ConfigError: the address of an upstream is not allowed.
    """
    allowlist = EgressAllowlist(settings.allowed_upstreams)
    for name, upstream in settings.upstreams.items():
        try:
            await asyncio.gather(*map(allowlist.check_resolved, upstream.addresses))
        except InvalidRequest as error:
            raise ConfigError(f"load_balancer.upstreams.{name}: {error.message}") from error
    return allowlist


async def build(scope: ServiceContext) -> LoadBalancer:
    """Build the service from the configuration."""
    settings = scope.settings(Settings)
    records = ResourceStore(UPSTREAMS, await scope.database(), scope.audit())
    fixed = from_profile(scope.profile.http_addresses(), settings.upstreams)
    service = LoadBalancer(fixed, await _checked_allowlist(settings), records)
    scope.describe(service.detail)
    return service
