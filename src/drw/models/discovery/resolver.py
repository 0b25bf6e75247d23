"""Resolution of model names for a caller: aliases, versions and models of the settings, with their permits."""

from __future__ import annotations

from collections.abc import Iterable

from drw.api.models.v1.discovery_pb2 import Model, Permit, Plan, ResolvedModel, Target
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.models.discovery.aliases import OrgAlias
from drw.models.discovery.governance import permits
from drw.models.discovery.governance.configured import ConfiguredVersions
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.probing.replica_states import ReplicaStates
from drw.models.discovery.registry import ALIAS, ModelNotFound, Registry
from drw.models.discovery.versions import identity, messages
from drw.models.discovery.versions.store import VersionStore
from drw.routing.permits import ModelNotValidated

MAX_LISTED = 1000
"""Registered versions in a list of models, newest first."""
ADDRESSES_SCOPE = "platform:read"


class Resolver:
    """Resolves names. A version without a valid validation record is never a candidate.

    Args:
        permit_seconds: the longest validity of a permit.
    """

    def __init__(
        self,
        registry: Registry,
        versions: VersionStore,
        configured: ConfiguredVersions,
        replicas: ReplicaStates,
        permit_seconds: float,
    ) -> None:
        self._registry = registry
        self._versions = versions
        self._configured = configured
        self._replicas = replicas
        self._permit_seconds = permit_seconds

    async def all(self) -> list[Model]:
        """Return the models that the caller may use: configured ones, its org's versions with a permit, aliases."""
        models = [model for model in self._registry.all() if self._is_permitted(model)]
        principal = context.caller_or_none()
        if principal is None or not principal.org:
            return models
        rows = await self._versions.usable(principal, MAX_LISTED)
        versions = [messages.model(row) for row in rows if not permits.refusal(row)]
        own = self._registry.aliases.visible(principal)
        targets = {row["key"]: row for row in await self._versions.by_keys([alias.version for alias in own])}
        aliases = [
            _alias_model(alias, targets[alias.version])
            for alias in own
            if alias.fallbacks or not permits.refusal(targets[alias.version])
        ]
        overridden = {alias.id for alias in aliases}
        return [*(model for model in models if model.id not in overridden), *versions, *aliases]

    async def get(self, name: str) -> Model:
        """Return one model, version or alias, with the states of its replicas.

        Raises:
            ModelNotFound: the caller sees no such model.
        """
        principal = context.caller_or_none()
        if (alias := self._registry.aliases.of_org(name, principal)) is not None:
            return _alias_model(alias, await self._target(alias))
        if (row := await self._find(name, principal)) is not None:
            model = messages.model(row)
            if row["org"] and row["metadata"].get("endpoint"):
                self._add_replicas(model, messages.resolved(row, (), Permit()), principal)
            return model
        model = self._registry.get(name)
        if model.engine != ALIAS:
            self._add_replicas(model, self._registry.resolve(name), principal)
        return model

    async def resolve(self, name: str) -> ResolvedModel:
        """Return a model or version, or the version that an alias of the org names.

        Raises:
            ModelNotFound: the caller sees no such model.
            ModelNotValidated: it has no valid validation record.
        """
        principal = context.caller_or_none()
        if (alias := self._registry.aliases.of_org(name, principal)) is not None:
            return await self._version(await self._target(alias))
        if (row := await self._find(name, principal)) is not None:
            return await self._version(row)
        return self._permitted(self._registry.resolve(name))

    async def plan(self, name: str) -> Plan:
        """Return the candidates for a name. Candidates without a valid validation record are left out.

        Raises:
            ModelNotFound: the caller sees no such model.
            ModelNotValidated: no candidate has a valid validation record.
        """
        principal = context.caller_or_none()
        if (alias := self._registry.aliases.of_org(name, principal)) is not None:
            return await self._plan_of(alias)
        if (row := await self._find(name, principal)) is not None:
            resolved = await self._version(row)
            return Plan(id=resolved.model.id, targets=[Target(model=resolved, weight=1)])
        plan = self._registry.plan(name)
        refusals: list[ModelNotValidated] = []
        targets = [
            Target(model=model, weight=target.weight)
            for target in plan.targets
            for model in self._without_refused([target.model], refusals)
        ]
        fallbacks = list(self._without_refused(plan.fallbacks, refusals))
        if not targets and not fallbacks:
            raise refusals[0]
        return Plan(id=plan.id, targets=targets, fallbacks=fallbacks, total_seconds=plan.total_seconds)

    async def probed(self) -> list[ResolvedModel]:
        """Return all models and approved versions with an address, to probe them."""
        configured = [self._registry.resolve(name) for name in self._registry.models]
        rows = await self._versions.with_endpoints(MAX_LISTED)
        return [*configured, *(messages.resolved(row, (), Permit()) for row in rows)]

    def describe(self) -> list[str]:
        """Return a sentence for each replica of a configured model that does not serve it."""
        models = [self._registry.resolve(name) for name in self._registry.models]
        return [f"{model.model.id}: {text}" for model in models for text in self._replicas.wrong(model)]

    async def _plan_of(self, alias: OrgAlias) -> Plan:
        fallbacks = [self._registry.resolve(name) for name in alias.fallbacks if name in self._registry.models]
        refusals: list[ModelNotValidated] = []
        permitted = list(self._without_refused(fallbacks, refusals))
        row = await self._target(alias)
        try:
            targets = [Target(model=await self._version(row), weight=1)]
        except ModelNotValidated:
            if not permitted:
                raise
            targets = []
        return Plan(id=alias.name, targets=targets, fallbacks=permitted, total_seconds=alias.total_seconds)

    async def _target(self, alias: OrgAlias) -> Row:
        (row,) = await self._versions.by_keys([alias.version])
        return row

    async def _find(self, name: str, principal: Principal | None) -> Row | None:
        """Return the version that a name refers to; None: the name does not have the form of a version.

        Raises:
            ModelNotFound: it does, and the caller sees no such version.
        """
        if (reference := identity.parse(name)) is None:
            return None
        row = await self._versions.find(reference, principal)
        if row is None or (not row["org"] and not self._configured.is_current(row)):
            raise ModelNotFound(name, self._registry.models)
        return row

    async def _version(self, row: Row) -> ResolvedModel:
        if not row["org"]:
            return self._permitted(self._registry.resolve(row["model"]))
        permit = permits.permit(row, self._permit_seconds)
        files = [] if row["metadata"].get("endpoint") else await self._versions.files(row["key"])
        return self._with_usable_replicas(messages.resolved(row, files, permit))

    def _permitted(self, resolved: ResolvedModel) -> ResolvedModel:
        """Return a configured model with its permit; raises `ModelNotValidated`."""
        resolved.permit.CopyFrom(self._configured.permit(resolved.model.id))
        resolved.model.digest = self._configured.files_digest(resolved.model.id)
        return self._with_usable_replicas(resolved)

    def _is_permitted(self, model: Model) -> bool:
        names: Iterable[str] = [*model.targets, *model.fallbacks] if model.engine == ALIAS else [model.id]
        for name in names:
            try:
                self._configured.permit(name)
            except ModelNotValidated:
                continue
            return True
        return False

    def _without_refused(
        self, models: Iterable[ResolvedModel], refusals: list[ModelNotValidated]
    ) -> Iterable[ResolvedModel]:
        for model in models:
            try:
                yield self._permitted(model)
            except ModelNotValidated as error:
                refusals.append(error)

    def _with_usable_replicas(self, resolved: ResolvedModel) -> ResolvedModel:
        usable = self._replicas.usable(resolved.base_urls, resolved.upstream_model)
        if usable and len(usable) < len(resolved.base_urls):
            del resolved.base_urls[:]
            resolved.base_urls.extend(usable)
            resolved.base_url = usable[0]
        return resolved

    def _add_replicas(self, model: Model, resolved: ResolvedModel, principal: Principal | None) -> None:
        with_addresses = principal is None or ADDRESSES_SCOPE in principal.scopes
        model.replicas.extend(self._replicas.of(resolved, with_addresses=with_addresses))


def _alias_model(alias: OrgAlias, row: Row) -> Model:
    model = messages.model(row)
    model.id, model.engine = alias.name, ALIAS
    model.targets.append(row["id"])
    model.fallbacks.extend(alias.fallbacks)
    return model
