"""Model discovery: models, aliases, and the candidates for a name."""

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
    PromoteAliasRequest,
    ResolvedModel,
    ResolveModelRequest,
    ResolvePlanRequest,
    WatchAliasesRequest,
    WeightedTarget,
)
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.host import ServiceContext
from drw.models.discovery.aliases import AliasNotFound, check_name
from drw.models.discovery.registry import ALIAS, Registry
from drw.models.discovery.settings import Settings as DiscoverySettings
from drw.models.discovery.store import AliasStore


class Discovery(contract.Discovery):
    """Serves `drw.api.models.v1.Discovery` from the settings and the stored aliases, both in memory."""

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
        """Return the replicas and settings of a model."""
        return self._registry.resolve(request.id)

    async def resolve_plan(self, request: ResolvePlanRequest, /) -> Plan:
        """Return the candidates for a name in their order."""
        return self._registry.plan(request.id)

    async def watch_aliases(self, request: WatchAliasesRequest, /) -> AsyncIterator[AliasesChanged]:
        """Send a message now and after each change."""
        while True:
            changed = self._changed
            yield AliasesChanged()
            await changed.wait()

    async def list_aliases(self, request: ListAliasesRequest, /) -> ListAliasesResponse:
        """List all aliases, including the configured ones."""
        return ListAliasesResponse(aliases=self._registry.aliases.all())

    async def set_alias(self, request: Alias, /) -> Alias:
        """Create or replace an alias."""
        tenancy.check_change(tenancy.PLATFORM)
        alias = Alias()
        alias.CopyFrom(request)
        return await self._put(alias)

    async def promote_alias(self, request: PromoteAliasRequest, /) -> Alias:
        """Make a model the only target of an alias; its fallbacks and its time limit stay."""
        alias = Alias(name=request.alias)
        if (existing := self._registry.aliases.get(request.alias)) is not None:
            alias.CopyFrom(existing)
        del alias.targets[:]
        alias.targets.append(WeightedTarget(model=request.model, weight=1))
        remaining = [model for model in alias.fallbacks if model != request.model]
        del alias.fallbacks[:]
        alias.fallbacks.extend(remaining)
        return await self._put(alias)

    async def delete_alias(self, request: DeleteAliasRequest, /) -> DeleteAliasResponse:
        """Delete a stored alias; a configured alias of the same name becomes effective again."""
        tenancy.check_change(tenancy.PLATFORM)
        check_name(request.name)
        setting = self._registry.aliases.setting(request.name)
        if not await self._store.delete(request.name, setting):
            if setting is not None:
                message = f"{request.name!r} is in the settings: remove it from [services.discovery.aliases]"
                raise InvalidRequest(message, param="name")
            raise AliasNotFound(request.name, [alias.name for alias in self._registry.aliases.all()])
        await self.refresh()
        return DeleteAliasResponse()

    async def _put(self, alias: Alias) -> Alias:
        alias.from_settings = False
        self._registry.aliases.check(alias)
        await self._store.put(alias, self._registry.aliases.setting(alias.name))
        await self.refresh()
        return alias

    async def refresh(self) -> None:
        """Reload the stored aliases and notify the watchers."""
        self._registry.aliases.replace(await self._store.all())
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Reload the stored aliases after each change; the last ones apply while the database is down."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                await self.refresh()

    async def detail(self) -> str:
        """Return the number of models and aliases."""
        models = self._registry.all()
        aliases = sum(model.engine == ALIAS for model in models)
        count = len(models) - aliases
        return f"{count} models, {aliases} aliases" if aliases else f"{count} models"


async def build(scope: ServiceContext) -> Discovery:
    """Build the service from its settings."""
    settings = scope.settings(DiscoverySettings)
    database = await scope.database(required=False)  # models and aliases are resolved in memory
    store = AliasStore(database, scope.audit())
    first_seen = await store.first_seen(settings.models)
    registry = Registry(settings.models, settings.default_model, settings.aliases, first_seen)
    service = Discovery(registry, store)
    await service.refresh()
    scope.background(service.follow)
    scope.describe(service.detail)
    return service
