"""Resolves names of models that serving runs itself: predictive models and rerankers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from drw.api.models.v1.discovery_pb2 import (
    ListModelsRequest,
    Model,
    Plan,
    ResolvedModel,
    ResolvePlanRequest,
)
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import DeadlineExceeded, DrwError, Forbidden, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import caller_or_none
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList, killed_error
from drw.models.serving.ports import ModelSpec, short_digest
from drw.models.serving.routing.load_balancing import weighted_order
from drw.models.serving.routing.permitted import CallerKey, caller_key, still_permitted
from drw.models.serving.runtime.plan_switch import PlanSwitch
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.specs import has_files, spec_of
from drw.routing import permits
from drw.routing.permits import ModelNotValidated

RESOLVE_TIMEOUT_SECONDS = 5.0
SWITCH_CHECK_SECONDS = 0.1
"""Lifetime of an old plan while the models of the new one are loaded."""
MAX_CACHED = 10_000
KINDS = {"predictive": (Model.PREDICTIVE, Model.RERANKER), "reranker": (Model.RERANKER,)}


@dataclass(frozen=True, slots=True)
class RuntimeModel:
    """A model that serving runs, as discovery resolved it."""

    resolved: ResolvedModel
    spec: ModelSpec

    @property
    def id(self) -> str:
        """The id of the model."""
        return self.resolved.model.id


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """The candidates for one name: weighted targets, then fallbacks."""

    id: str
    targets: tuple[tuple[RuntimeModel, int], ...]
    fallbacks: tuple[RuntimeModel, ...]

    @property
    def models(self) -> tuple[RuntimeModel, ...]:
        """All candidates."""
        return *(model for model, _ in self.targets), *self.fallbacks

    @property
    def main_specs(self) -> tuple[ModelSpec, ...]:
        """The models that receive traffic while none of them fails."""
        return tuple(model.spec for model, weight in self.targets if weight)

    def order(self, random: Random) -> tuple[RuntimeModel, ...]:
        """Return the models in the order of attempts for one request."""
        if len(self.targets) == 1:
            return self.models
        by_id = {model.id: model for model, _ in self.targets}
        names = weighted_order([(model.id, weight) for model, weight in self.targets], str(random.random()))
        return *(by_id[name] for name in names), *self.fallbacks


class RuntimeDirectory:
    """Caches plans of discovery for each org and its walls, since discovery answers by caller."""

    def __init__(
        self,
        discovery: DiscoveryClient,
        pool: ModelPool,
        switch: PlanSwitch,
        kills: KillList,
        clock: Clock,
        seconds: float,
    ) -> None:
        self.pool = pool
        self._discovery = discovery
        self._switch = switch
        self._kills = kills
        self._clock = clock
        self._seconds = seconds
        self._plans: dict[CallerKey, tuple[RuntimePlan, float]] = {}

    async def plan(self, name: str, version: str = "", kind: str = "predictive") -> RuntimePlan:
        """Return the candidates for the name of a model or an alias, of one version if there is one.

        Raises:
            NotFound: the model or its version does not exist.
            InvalidRequest: it is another kind of model.
            Forbidden: no valid record permits traffic to any candidate.
            Killed: a kill switch stops it.
        """
        plan = await self._version(name, version) if version else await self._cached(name)
        for model in plan.models:
            if model.resolved.model.kind not in KINDS[kind]:
                raise InvalidRequest(f"{model.id!r} is not a {kind} model", param="model")
        self._kills.check(caller_or_none(), (name, plan.id))
        return self._usable(plan)

    async def models(self) -> list[Model]:
        """Return the predictive models and rerankers that the caller can use, without aliases."""
        listed = await self._discovery.list_models(ListModelsRequest(), timeout=RESOLVE_TIMEOUT_SECONDS)
        return [model for model in listed.models if model.kind in KINDS["predictive"] and model.engine != "alias"]

    async def _version(self, name: str, version: str) -> RuntimePlan:
        """Return one version: a registered one is `NAME@VERSION`; the settings name none, so the loaded one counts."""
        try:
            return await self._cached(f"{name}@{version}")
        except NotFound:
            plan = await self._cached(name)
        for model in plan.models:
            loaded = self.pool.model(model.spec)
            if version in (short_digest(model.spec.digest), short_digest(loaded.digest) if loaded else ""):
                return RuntimePlan(model.id, ((model, 1),), ())
        message = f"the model {name!r} has no version {version!r}, or it is not loaded; `drw models loaded` lists them"
        raise NotFound(message, code="model_not_found", param="model")

    def _usable(self, plan: RuntimePlan) -> RuntimePlan:
        """Return the candidates that have a permit and no kill; raise if none is left."""
        usable: list[str] = []
        error: DrwError | None = None
        for model in plan.models:
            kill = self._kills.find_model(caller_or_none(), model.id)
            if refused := permits.refusal(model.resolved.permit):
                error = error or ModelNotValidated(model.id, refused)
                continue
            if kill:
                error = error or killed_error(kill)
                continue
            usable.append(model.id)
        if not usable:
            assert error is not None
            raise error
        targets = tuple(target for target in plan.targets if target[0].id in usable)
        return RuntimePlan(plan.id, targets, tuple(model for model in plan.fallbacks if model.id in usable))

    async def _cached(self, name: str) -> RuntimePlan:
        key = caller_key(name)
        cached = self._plans.get(key)
        if cached and self._clock.time() < cached[1]:
            return cached[0]
        seconds = self._seconds
        try:
            plan = await self._resolve(name)
        except (NotFound, Forbidden):
            self._plans.pop(key, None)
            raise
        except (Unavailable, DeadlineExceeded):
            if cached is None:
                raise
            plan = cached[0]
        if (
            cached
            and plan.main_specs != cached[0].main_specs
            and not self._switch.may_use(key, plan.main_specs, cached[0].main_specs)
            and await still_permitted(self._discovery, {each.id: each.resolved.permit for each in cached[0].models})
        ):
            plan, seconds = cached[0], min(seconds, SWITCH_CHECK_SECONDS)
        if len(self._plans) >= MAX_CACHED:
            self._plans.clear()
        self._plans[key] = plan, self._clock.time() + seconds
        return plan

    async def _resolve(self, name: str) -> RuntimePlan:
        request = ResolvePlanRequest(id=name)
        return _runtime_plan(await self._discovery.resolve_plan(request, timeout=RESOLVE_TIMEOUT_SECONDS))


def _runtime_plan(plan: Plan) -> RuntimePlan:
    for resolved in [*(target.model for target in plan.targets), *plan.fallbacks]:
        if resolved.model.kind not in KINDS["predictive"] or not has_files(resolved):
            message = f"{resolved.model.id!r} is not a predictive model; chat models have /v1/chat/completions"
            raise InvalidRequest(message, param="model")
    targets = tuple((_runtime_model(target.model), target.weight) for target in plan.targets)
    return RuntimePlan(plan.id, targets, tuple(map(_runtime_model, plan.fallbacks)))


def _runtime_model(resolved: ResolvedModel) -> RuntimeModel:
    return RuntimeModel(resolved, spec_of(resolved))
