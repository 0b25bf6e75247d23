"""The model registry: models, versions with their validation, aliases, and the candidates for a name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.models.v1 import discovery_rpc as contract
from drw.api.models.v1.discovery_pb2 import (
    Alias,
    AliasesChanged,
    DeleteAliasRequest,
    DeleteAliasResponse,
    GetModelRequest,
    GetVersionBomRequest,
    GetVersionBomResponse,
    ListAliasesRequest,
    ListAliasesResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListVersionsRequest,
    ListVersionsResponse,
    Model,
    ModelFileChunk,
    ModelVersion,
    Plan,
    PromoteAliasRequest,
    ReadModelFileRequest,
    RegisterVersionRequest,
    ResolvedModel,
    ResolveModelRequest,
    ResolvePlanRequest,
    WatchAliasesRequest,
    WeightedTarget,
)
from drw.api.models.v1.versions_pb2 import (
    AddEvaluationRequest,
    ApprovePromotionRequest,
    ApproveVersionRequest,
    CreatePromotionRequest,
    DeleteVersionFilesRequest,
    GetAliasHistoryRequest,
    GetAliasHistoryResponse,
    GetVersionRequest,
    ListPromotionsRequest,
    ListPromotionsResponse,
    Promotion,
    RejectPromotionRequest,
    RetireVersionRequest,
    RevokeValidationRequest,
    RollbackAliasRequest,
    ValidateVersionRequest,
)
from drw.events.publisher import create_tables
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.host import ServiceContext
from drw.models.discovery import ports
from drw.models.discovery.aliases import AliasNotFound, check_name
from drw.models.discovery.governance import history
from drw.models.discovery.governance.configured import ConfiguredVersions
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.governance.promotions import Promotions
from drw.models.discovery.governance.validation import Validations
from drw.models.discovery.probing.prober import Prober
from drw.models.discovery.probing.replica_states import ReplicaStates
from drw.models.discovery.registry import Registry
from drw.models.discovery.resolver import Resolver
from drw.models.discovery.settings import Settings as DiscoverySettings
from drw.models.discovery.store import AliasStore
from drw.models.discovery.versions import identity, messages, trust
from drw.models.discovery.versions.endpoints import EndpointRules
from drw.models.discovery.versions.file_deletion import FileDeletion
from drw.models.discovery.versions.file_reader import FileReader
from drw.models.discovery.versions.file_store import FileStore
from drw.models.discovery.versions.inspector import Inspector
from drw.models.discovery.versions.registration import Registration, check_evaluation
from drw.models.discovery.versions.store import VersionStore
from drw.models.discovery.versions.upload import FileRoutes
from drw.persons.second_person import SecondPerson

FOLDER_SECONDS = 5.0
"""Interval in which the folders of configured models are checked for changed files."""


class Discovery(contract.Discovery):
    """Serves `drw.api.models.v1.Discovery`. Models and aliases are in memory, versions in PostgreSQL."""

    def __init__(
        self,
        registry: Registry,
        store: AliasStore,
        resolver: Resolver,
        configured: ConfiguredVersions,
        versions: VersionStore,
        registration: Registration,
        validations: Validations,
        promotions: Promotions,
        files: FileReader,
        deletion: FileDeletion,
    ) -> None:
        self._registry = registry
        self._store = store
        self._resolver = resolver
        self._configured = configured
        self._versions = versions
        self._registration = registration
        self._validations = validations
        self._promotions = promotions
        self._files = files
        self._deletion = deletion
        self._changed = asyncio.Event()

    async def list_models(self, request: ListModelsRequest, /) -> ListModelsResponse:
        """Return every model, version and alias that the caller may use, without addresses."""
        return ListModelsResponse(models=await self._resolver.all())

    async def get_model(self, request: GetModelRequest, /) -> Model:
        """Return one model, version or alias."""
        return await self._resolver.get(request.id)

    async def resolve_model(self, request: ResolveModelRequest, /) -> ResolvedModel:
        """Return the replicas, files and settings of a model."""
        return await self._resolver.resolve(request.id)

    async def resolve_plan(self, request: ResolvePlanRequest, /) -> Plan:
        """Return the candidates for a name in their order."""
        return await self._resolver.plan(request.id)

    async def read_model_file(self, request: ReadModelFileRequest, /) -> AsyncIterator[ModelFileChunk]:
        """Stream a file of a version."""
        async with aclosing(self._files.read(request.sha256, request.offset)) as blocks:
            async for block in blocks:
                yield ModelFileChunk(data=block)

    async def watch_aliases(self, request: WatchAliasesRequest, /) -> AsyncIterator[AliasesChanged]:
        """Send a message now and after each change."""
        while True:
            changed = self._changed
            yield AliasesChanged()
            await changed.wait()

    async def list_aliases(self, request: ListAliasesRequest, /) -> ListAliasesResponse:
        """List the aliases of the platform and of the caller's org."""
        own = self._registry.aliases.visible(context.caller_or_none())
        return ListAliasesResponse(aliases=[*self._registry.aliases.all(), *(alias.alias() for alias in own)])

    async def set_alias(self, request: Alias, /) -> Alias:
        """Create or replace an alias of the platform."""
        tenancy.check_change(tenancy.PLATFORM)
        alias = Alias()
        alias.CopyFrom(request)
        alias.from_settings = False
        return await self._put(alias)

    async def promote_alias(self, request: PromoteAliasRequest, /) -> Alias:
        """Make a model the only target of an alias; its fallbacks and its time limit stay."""
        if (reference := identity.parse(request.model)) is not None:
            principal = context.caller_or_none()
            org = request.org or (principal.org if principal else "")
            moved = await self._promotions.by_rollout(org, request.alias, reference, request.rollout)
            await self.refresh()
            return moved.alias()
        if request.org:
            message = f"the alias of an org names a registered version; {request.model!r} is none"
            raise InvalidRequest(message, param="model")
        if request.model in self._registry.models:
            self._configured.permit(request.model)
        alias = Alias(name=request.alias)
        if (existing := self._registry.aliases.get(request.alias)) is not None:
            alias.CopyFrom(existing)
        alias.from_settings = False
        del alias.targets[:]
        alias.targets.append(WeightedTarget(model=request.model, weight=1))
        remaining = [model for model in alias.fallbacks if model != request.model]
        del alias.fallbacks[:]
        alias.fallbacks.extend(remaining)
        return await self._put(alias, "the rollout ended", request.rollout)

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

    async def rollback_alias(self, request: RollbackAliasRequest, /) -> Alias:
        """Return an alias of the caller's org to its target before."""
        moved = await self._promotions.rollback(request.name, request.reason)
        await self.refresh()
        return moved.alias() if moved else Alias(name=request.name)

    async def get_alias_history(self, request: GetAliasHistoryRequest, /) -> GetAliasHistoryResponse:
        """Return what an alias named."""
        return await history.page(self._store.database, request)

    async def register_version(self, request: RegisterVersionRequest, /) -> ModelVersion:
        """Register a version."""
        return await self._version(await self._registration.register(request))

    async def list_versions(self, request: ListVersionsRequest, /) -> ListVersionsResponse:
        """Return a page of versions, without files, evaluation results and validation records."""
        rows, token = await self._versions.page(request)
        aliases = await self._versions.aliases([row["key"] for row in rows])
        versions = [messages.version(row, aliases.get(row["key"], ())) for row in rows]
        return ListVersionsResponse(versions=versions, next_page_token=token)

    async def get_version(self, request: GetVersionRequest, /) -> ModelVersion:
        """Return a version with everything that is recorded about it."""
        return await self._version(await self._versions.get(request.id))

    async def get_version_bom(self, request: GetVersionBomRequest, /) -> GetVersionBomResponse:
        """Return the bill of materials of a version."""
        row = await self._versions.get(request.id)
        document = messages.bill_of_materials(row, await self._versions.files(row["key"]))
        return GetVersionBomResponse(bom=json_message(document))

    async def add_evaluation(self, request: AddEvaluationRequest, /) -> ModelVersion:
        """Add an evaluation result to a version."""
        check_evaluation(request.evaluation)
        return await self._version(
            await self._versions.add_evaluation(request.id, request.evaluation, request.request_id)
        )

    async def validate_version(self, request: ValidateVersionRequest, /) -> ModelVersion:
        """Submit a validation record."""
        return await self._version(await self._validations.submit(request.id, request.record))

    async def revoke_validation(self, request: RevokeValidationRequest, /) -> ModelVersion:
        """Revoke the validation of a version."""
        return await self._changed_version(await self._validations.revoke(request.id, request.reason))

    async def approve_version(self, request: ApproveVersionRequest, /) -> ModelVersion:
        """Approve the submitted validation record."""
        return await self._changed_version(await self._validations.approve(request.id))

    async def retire_version(self, request: RetireVersionRequest, /) -> ModelVersion:
        """Retire a version."""
        return await self._changed_version(await self._versions.retire(request.id, request.reason))

    async def delete_version_files(self, request: DeleteVersionFilesRequest, /) -> ModelVersion:
        """Delete the files of a retired version."""
        return await self._version(await self._deletion.delete(request.id, request.reason))

    async def create_promotion(self, request: CreatePromotionRequest, /) -> Promotion:
        """Request a promotion."""
        return await self._promotions.create(request)

    async def list_promotions(self, request: ListPromotionsRequest, /) -> ListPromotionsResponse:
        """Return a page of promotions."""
        promotions, token = await self._promotions.list(request)
        return ListPromotionsResponse(promotions=promotions, next_page_token=token)

    async def approve_promotion(self, request: ApprovePromotionRequest, /) -> Promotion:
        """Approve a promotion, and move the alias."""
        promotion = await self._promotions.approve(request.id)
        await self.refresh()
        return promotion

    async def reject_promotion(self, request: RejectPromotionRequest, /) -> Promotion:
        """Reject a promotion."""
        return await self._promotions.reject(request.id, request.reason)

    async def refresh(self) -> None:
        """Reload the stored aliases and the validation of configured models, and notify the watchers."""
        self._registry.aliases.replace(await self._store.all(), await self._store.of_orgs())
        await self._configured.load()
        self.announce()

    def announce(self) -> None:
        """Notify the watchers."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Reload after each change; the last state applies while the database is down."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                await self.refresh()

    async def follow_folders(self) -> None:
        """Look for changed files of configured models periodically."""
        while True:
            await asyncio.sleep(FOLDER_SECONDS)
            if await self._configured.read_folders():
                self.announce()

    async def detail(self) -> str:
        """Return the number of models and aliases, and the replicas that do not serve their model."""
        aliases = len(self._registry.aliases.all())
        count = f"{len(self._registry.models)} models"
        return "; ".join([f"{count}, {aliases} aliases" if aliases else count, *self._resolver.describe()])

    async def _put(self, alias: Alias, reason: str = "", promotion: str = "") -> Alias:
        self._registry.aliases.check(alias)
        await self._store.put(alias, self._registry.aliases.setting(alias.name), reason, promotion)
        await self.refresh()
        return alias

    async def _changed_version(self, row: Row) -> ModelVersion:
        await self.refresh()
        return await self._version(row)

    async def _version(self, row: Row) -> ModelVersion:
        key = row["key"]
        aliases: Sequence[str] = (await self._versions.aliases([key])).get(key, ())
        version = messages.version(row, aliases)
        version.files.extend(await self._versions.files(key))
        version.evaluations.extend(map(messages.evaluation, await self._versions.evaluations(key)))
        version.validations.extend(map(messages.validation, await self._validations.of(key)))
        return version


async def build(scope: ServiceContext) -> Discovery:
    """Build the service from its settings."""
    settings = scope.settings(DiscoverySettings)
    database = await scope.database(required=False)  # models and aliases are resolved in memory
    await create_tables(database)
    audit = scope.audit()
    registry = Registry(settings.models, settings.default_model, settings.aliases)
    digests = registry.digests()
    store = AliasStore(database, audit, digests)
    registry = Registry(
        settings.models, settings.default_model, settings.aliases, await store.first_seen(settings.models)
    )
    versions, replicas = VersionStore(database, audit), ReplicaStates()
    configured = ConfiguredVersions(
        database, registry, digests, required=settings.require_validation, seconds=settings.permit_seconds
    )
    await configured.read_folders()
    files = FileStore(database, audit, scope.folder, settings.max_file_bytes, settings.max_org_bytes)
    scope.routes += FileRoutes(files, settings.max_uploads).routes()
    scope.background(files.clean)
    authentication = scope.client(AuthenticationClient) if scope.has("authentication") else None
    second_person = SecondPerson(authentication)
    reader = FileReader(files, database)
    resolver = Resolver(registry, versions, configured, replicas, settings.permit_seconds)
    service = Discovery(
        registry,
        store,
        resolver,
        configured,
        versions,
        Registration(
            versions,
            files,
            Inspector(files, scope.folder, settings.inspection_seconds),
            EndpointRules(settings.allowed_endpoints, settings.endpoint_keys),
            trust.policy(settings.trusted_keys, settings.trusted_roots),
            require_signature=settings.require_signature,
            max_versions=settings.max_versions,
        ),
        Validations(versions, second_person, settings.max_validation_days),
        Promotions(registry, store, versions, second_person),
        reader,
        FileDeletion(versions, files, reader, settings.permit_seconds),
    )
    await service.refresh()
    await history.record_settings(database, registry.aliases.all(), digests)
    scope.background(service.follow)
    if settings.require_validation:
        scope.background(service.follow_folders)
    probe = scope.adapter(ports.EndpointProbe, default="http_probe")  # type: ignore[type-abstract]
    scope.on_stop(probe.close)
    scope.background(Prober(probe, replicas, resolver.probed, service.announce, settings.probe_seconds).run)
    scope.describe(service.detail)
    return service
