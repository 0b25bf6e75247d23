"""Builds moderation from the settings."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from drw.kernel.runtime.host import ServiceContext
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.moderation.moderations import Moderations
from drw.models.serving.ports import Moderator
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.settings import Settings
from drw.models.serving.upstreams import UpstreamCalls


def build_moderations(
    scope: ServiceContext,
    settings: Settings,
    models: ModelDirectory,
    metering: BudgetGate,
    queue: Callable[[str, int], AdmissionQueue],
) -> Moderations:
    """Return moderation by the models of upstreams, and by the local policy if it has categories."""
    upstream = settings.openai.model_dump()
    moderator = scope.make_adapter(Moderator, "moderations_api", upstream)  # type: ignore[type-abstract]
    scope.on_stop(moderator.close)
    policy = None
    if settings.moderation.categories:
        section = settings.moderation.model_dump()
        policy = scope.make_adapter(Moderator, "re2_policy", section)  # type: ignore[type-abstract]
    return Moderations(models, metering, UpstreamCalls(queue), moderator, policy, Random())
