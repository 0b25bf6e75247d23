"""Experiments of one call: its arm, and the order of the models that answer under it."""

from __future__ import annotations

from drw.kernel.errors import DrwError
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.experiments.exposures import Assignment
from drw.models.serving.experiments.routing_table import CallUnits, RoutingTable
from drw.models.serving.openai.requests import Sampling
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.model_directory import ModelDirectory

EXPERIMENT_HEADER = b"x-experiment"


class CallExperiments:
    """Assigns calls to arms, and resolves the models of arms."""

    def __init__(self, models: ModelDirectory, table: RoutingTable) -> None:
        self._models = models
        self._table = table

    def assign(self, alias: str, request: Sampling, units: CallUnits) -> Assignment | None:
        """Return the assignment of the caller's request; None if no experiment or rollout takes it."""
        return self._table.assign(alias, request, caller_or_none(), units)

    async def order(self, assigned: Assignment, models: tuple[ChatModel, ...]) -> tuple[ChatModel, ...]:
        """Return the models in the order of attempts: the model of the arm, then those of the alias.

        If the arm's model cannot be used, the others answer, which counts as an error of the arm.
        """
        assigned.intended_model = assigned.treatment.model or models[0].id
        if not assigned.treatment.model:
            return models
        try:
            model = (await self._models.plan(assigned.treatment.model)).targets[0][0]
        except DrwError:  # it is gone, killed, or not permitted anymore
            return models
        return model, *(other for other in models if other.id != model.id)
