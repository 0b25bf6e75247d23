"""The `models.*` activities: read the model registry, add an evaluation result, and request a promotion.

They have the rights of the key that started the run. The registry decides: it asks another person to approve a
promotion, and refuses a version without a valid validation record.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drw.api.models.v1.discovery_pb2 import GetModelRequest, ModelVersion
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.versions_pb2 import (
    AddEvaluationRequest,
    CreatePromotionRequest,
    Evaluation,
    GetVersionRequest,
    ListPromotionsRequest,
    Promotion,
)
from drw.kernel.errors import InvalidRequest, NotFound
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext

PAGE_SIZE = 100
MAX_PAGES = 10


class VersionArguments(Arguments):
    """The id of a version, as in "fraud@3f9a0c1d2e4b"."""

    version: str


class TargetArguments(Arguments):
    """The name of an alias or a model."""

    name: str


class EvaluationArguments(Arguments):
    """The version, the name of the test, its data, and figures by name."""

    version: str
    suite: str
    metrics: dict[str, float] = Field(min_length=1, max_length=50)
    data: str = ""


class PromoteArguments(Arguments):
    """The alias, the version that it is to name, and why."""

    alias: str
    version: str
    reason: str


class PromotionArguments(Arguments):
    """The alias of a promotion, and its id."""

    alias: str
    promotion: str


async def version(services: Services, step_context: StepContext, arguments: VersionArguments) -> dict[str, Any]:
    """Return the stage of a version, and whether traffic is permitted."""
    request = GetVersionRequest(id=arguments.version)
    found = await _registry(services).get_version(request, timeout=step_context.timeout_seconds)
    return {
        "version": found.id,
        "model": found.model,
        "stage": ModelVersion.Stage.Name(found.stage),
        "permitted": found.HasField("permit"),
        "blocked": found.blocked,
        "aliases": list(found.aliases),
    }


async def target(services: Services, step_context: StepContext, arguments: TargetArguments) -> dict[str, Any]:
    """Return the model that answers for a name most often; `found` is false if there is no such name."""
    request = GetModelRequest(id=arguments.name)
    try:
        model = await _registry(services).get_model(request, timeout=step_context.timeout_seconds)
    except NotFound:
        return {"found": False, "model": ""}
    return {"found": True, "model": model.targets[0] if model.targets else model.id}


async def evaluation(services: Services, step_context: StepContext, arguments: EvaluationArguments) -> dict[str, Any]:
    """Add an evaluation result to a version, once for each step."""
    result = Evaluation(suite=arguments.suite, data=arguments.data, metrics=arguments.metrics)
    request = AddEvaluationRequest(id=arguments.version, evaluation=result, request_id=step_context.idempotency_key)
    changed = await _registry(services).add_evaluation(request, timeout=step_context.timeout_seconds)
    return {"version": changed.id}


async def promote(services: Services, step_context: StepContext, arguments: PromoteArguments) -> dict[str, Any]:
    """Request a promotion, once for each step. Another person approves or rejects it in the registry."""
    request = CreatePromotionRequest(
        alias=arguments.alias,
        version=arguments.version,
        reason=arguments.reason,
        request_id=step_context.idempotency_key,
    )
    return _promotion(await _registry(services).create_promotion(request, timeout=step_context.timeout_seconds))


async def promotion(services: Services, step_context: StepContext, arguments: PromotionArguments) -> dict[str, Any]:
    """Return the state of a promotion: PENDING, APPROVED or REJECTED.

    Raises:
        NotFound: the newest promotions of the alias do not contain it.
    """
    request = ListPromotionsRequest(alias=arguments.alias, page_size=PAGE_SIZE)
    for _ in range(MAX_PAGES):
        page = await _registry(services).list_promotions(request, timeout=step_context.timeout_seconds)
        if found := next((item for item in page.promotions if item.id == arguments.promotion), None):
            return _promotion(found)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    raise NotFound(f"the alias {arguments.alias!r} has no promotion {arguments.promotion!r}")


def _registry(services: Services) -> DiscoveryClient:
    if services.discovery is None:
        raise InvalidRequest("this platform has no model registry")
    return services.discovery


def _promotion(found: Promotion) -> dict[str, Any]:
    return {
        "promotion": found.id,
        "alias": found.alias,
        "version": found.version,
        "state": Promotion.State.Name(found.state),
        "requested_by": found.requested_by,
        "decided_by": found.decided_by,
        "reason": found.decision_reason or found.reason,
    }


VERSION = Activity(VersionArguments, ("models:read",), version)
TARGET = Activity(TargetArguments, ("models:read",), target)
EVALUATION = Activity(EvaluationArguments, ("models:write",), evaluation)
PROMOTE = Activity(PromoteArguments, ("models:write",), promote)
PROMOTION = Activity(PromotionArguments, ("models:read",), promotion)
