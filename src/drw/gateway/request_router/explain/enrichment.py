"""Enrichment of explanations by other services: models from discovery, budgets from rate limiting."""

from __future__ import annotations

from drw.api.gateway.v1.rate_limiting_pb2 import ListBudgetsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import Answering, Configuration, Explanation, Route
from drw.api.models.v1.discovery_pb2 import Plan, ResolvePlanRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.gateway.request_router.explain.explanation import ExplainedRequest
from drw.gateway.request_router.explain.limits import REQUESTS, applicable_budgets, effective_limits
from drw.kernel.errors import DrwError
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.routing.request_matching import MODEL_HEADER, OWN_PATHS, upstreams_of

SERVING = "serving"
INVOKE_SCOPE = "models:invoke"
BUDGETS_SCOPE = "keys:read"


class ExplanationEnricher:
    """Adds models, limits and budgets; an unavailable service becomes a note."""

    def __init__(self, discovery: DiscoveryClient | None, limiting: RateLimitingClient) -> None:
        self._discovery = discovery
        self._limiting = limiting

    async def add(
        self, explanation: Explanation, configuration: Configuration, request: ExplainedRequest, principal: Principal
    ) -> None:
        """Add the models, limits and budgets of a request."""
        if request.path in OWN_PATHS:
            return
        route = explanation.taken
        if _is_served_model_call(route, configuration, request):
            await self._add_models(explanation, request.model)
        named_models = {
            request.model,
            request.headers.get(MODEL_HEADER, ""),
            *(candidate.model for candidate in explanation.models),
        }
        models = named_models - {""}
        explanation.limits.extend(
            effective_limits(configuration.limits, principal, models, pass_through=route.pass_through)
        )
        explanation.requests_per_minute = next(bound.max for bound in explanation.limits if bound.what == REQUESTS)
        await self._add_budgets(explanation, principal, models)

    async def _add_models(self, explanation: Explanation, model: str) -> None:
        if not model:
            explanation.notes.append("the model in the request body decides which model answers")
        elif self._discovery is None:
            explanation.notes.append("which model answers is not known here: this profile has no discovery service")
        else:
            try:
                plan = await self._discovery.resolve_plan(ResolvePlanRequest(id=model))
                explanation.models.extend(_candidates(plan))
            except DrwError as error:
                explanation.notes.append(f"which model answers: {error.message}")

    async def _add_budgets(self, explanation: Explanation, principal: Principal, models: set[str]) -> None:
        if BUDGETS_SCOPE not in context.caller().scopes:
            explanation.notes.append(f"budgets are seen with the scope {BUDGETS_SCOPE!r}, as in `drw budgets list`")
            return
        try:
            budgets = (await self._limiting.list_budgets(ListBudgetsRequest())).budgets
            explanation.budgets.extend(applicable_budgets(budgets, principal, models))
        except DrwError as error:
            explanation.notes.append(f"budgets: {error.message}")


def _is_served_model_call(route: Route, configuration: Configuration, request: ExplainedRequest) -> bool:
    """Return whether the request is a model call that model serving handles."""
    serving = {upstream.name for upstream in configuration.upstreams.upstreams if SERVING in upstream.services}
    calls = INVOKE_SCOPE in route.scopes and request.method == "POST"
    return calls and not route.pass_through and not serving.isdisjoint(upstreams_of(route))


def _candidates(plan: Plan) -> list[Answering]:
    """Return the candidate models of a plan: targets by descending weight, then fallbacks."""
    total_weight = sum(target.weight for target in plan.targets)
    targets = sorted(plan.targets, key=lambda target: -target.weight)
    targets_by_weight = [Answering(model=t.model.model.id, percent=100 * t.weight / total_weight) for t in targets]
    return [*targets_by_weight, *(Answering(model=model.model.id) for model in plan.fallbacks)]
