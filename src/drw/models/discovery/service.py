"""Knows every model and where it is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from drw.api.models.v1 import discovery_rpc as contract
from drw.api.models.v1.discovery_pb2 import (
    Alias,
    AliasesChanged,
    DeleteAliasRequest,
    DeleteAliasResponse,
    GetModelRequest,
    ListAliasesRequest,
    ListAliasesResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    Plan,
    ResolvedModel,
    ResolveModelRequest,
    ResolvePlanRequest,
    WatchAliasesRequest,
)
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.host import ServiceContext
from drw.models.discovery.aliases import AliasNotFound, check_name
from drw.models.discovery.registry import ALIAS, Registry
from drw.models.discovery.settings import Settings as DiscoverySettings
from drw.models.discovery.store import AliasStore


class Discovery(contract.Discovery):
    """Serves `drw.api.models.v1.Discovery` from the settings, and from the records of aliases in memory."""

    def __init__(self, registry: Registry, store: AliasStore) -> None:
        self._registry = registry
        self._store = store
        self._changed = asyncio.Event()

    async def list_models(self, request: ListModelsRequest, /) -> ListModelsResponse:
        """Return every model and alias, without addresses."""
        return ListModelsResponse(models=self._registry.all())

    async def get_model(self, request: GetModelRequest, /) -> Model:
        """Return one model or alias, without its address."""
        return self._registry.get(request.id)

    async def resolve_model(self, request: ResolveModelRequest, /) -> ResolvedModel:
        """Return where a model answers."""
        return self._registry.resolve(request.id)

    async def resolve_plan(self, request: ResolvePlanRequest, /) -> Plan:
        """Return all models that may answer for a name, in their order."""
        return self._registry.plan(request.id)

    async def watch_aliases(self, request: WatchAliasesRequest, /) -> AsyncIterator[AliasesChanged]:
        """Send a message now and after each change."""
        while True:
            changed = self._changed
            yield AliasesChanged()
            await changed.wait()

    async def list_aliases(self, request: ListAliasesRequest, /) -> ListAliasesResponse:
        """List the aliases, those of the settings too."""
        return ListAliasesResponse(aliases=self._registry.aliases.all())

    async def set_alias(self, request: Alias, /) -> Alias:
        """Make an alias, or put another in its place."""
        tenancy.check_change(tenancy.PLATFORM)
        alias = Alias()
        alias.CopyFrom(request)
        alias.from_settings = False
        self._registry.aliases.check(alias)
        await self._store.put(alias, self._registry.aliases.setting(alias.name))
        await self.refresh()
        return alias

    async def delete_alias(self, request: DeleteAliasRequest, /) -> DeleteAliasResponse:
        """Remove an alias; one of the settings of the same name counts again."""
        tenancy.check_change(tenancy.PLATFORM)
        check_name(request.name)
        setting = self._registry.aliases.setting(request.name)
        if not await self._store.delete(request.name, setting):
            if setting is not None:
                message = f"{request.name!r} stands in the settings: take it out of [services.discovery.aliases]"
                raise InvalidRequest(message, param="name")
            raise AliasNotFound(request.name, [alias.name for alias in self._registry.aliases.all()])
        await self.refresh()
        return DeleteAliasResponse()

    async def refresh(self) -> None:
        """Read the records, and tell those who watch."""
        self._registry.aliases.replace(await self._store.all())
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Read the records again after each change, whoever made it; the last ones count while the database is gone."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                await self.refresh()

    async def detail(self) -> str:
        """Return how many models and aliases there are."""
        listed = self._registry.all()
        aliases = sum(model.engine == ALIAS for model in listed)
        models = len(listed) - aliases
        return f"{models} models, {aliases} aliases" if aliases else f"{models} models"


async def build(scope: ServiceContext) -> Discovery:
    """Make the service with what the configuration names."""
    settings = scope.settings(DiscoverySettings)
    store = AliasStore(await scope.database(), scope.audit())
    since = await store.since(settings.models)
    registry = Registry(settings.models, settings.default_model, settings.aliases, since)
    service = Discovery(registry, store)
    await service.refresh()
    scope.background(service.follow)
    scope.describe(service.detail)
    return service
