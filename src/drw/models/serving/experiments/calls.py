"""Experiments of one call: its arm, and the order of the models that answer under it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from drw.kernel.errors import DrwError
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.experiments.exposures import Assignment
from drw.models.serving.experiments.routing_table import CallUnits, RoutingTable
from drw.models.serving.experiments.shadow import ShadowCalls
from drw.models.serving.metering.budget_gate import Headers
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import Sampling
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk
from drw.models.serving.routing.candidates import ChatModel, ModelRequest
from drw.models.serving.routing.model_directory import ModelDirectory

EXPERIMENT_HEADER = b"x-experiment"


class CallExperiments:
    """Assigns calls to arms, and resolves the models of arms."""

    def __init__(self, models: ModelDirectory, table: RoutingTable, shadows: ShadowCalls | None = None) -> None:
        self._models = models
        self._table = table
        self._shadows = shadows

    def assign(
        self, alias: str, request: Sampling, units: CallUnits, record: CallRecord, headers: Headers | None
    ) -> Assignment | None:
        """Return the assignment of the caller's request; None if no experiment or rollout takes it.

        The record gets the exposure, and `headers` the response header.
        """
        if (assigned := self._table.assign(alias, request, caller_or_none(), units)) is None:
            return None
        record.assign(assigned)
        if headers is not None and assigned.label:
            headers.append((EXPERIMENT_HEADER, assigned.label.encode()))
        return assigned

    def shadowed(
        self,
        alias: str,
        request: Sampling,
        model_request: ModelRequest,
        raw: bytes,
        answer: Answer,
        chunks: AsyncGenerator[Chunk, None],
    ) -> AsyncGenerator[Chunk, None]:
        """Return the chunks of a call; a copy follows them if a rollout samples the call."""
        rollout = self._table.shadow(alias, request, caller_or_none()) if self._shadows else None
        if rollout is None or self._shadows is None:
            return chunks
        return self._shadows.after(chunks, rollout, model_request, raw, answer)

    async def order(self, assigned: Assignment | None, models: tuple[ChatModel, ...]) -> tuple[ChatModel, ...]:
        """Return the models in the order of attempts: the model of the arm, then those of the alias.

        If the arm's model cannot be used, the others answer, which counts as an error of the arm.
        """
        if assigned is None:
            return models
        assigned.intended_model = assigned.treatment.model or models[0].id
        if not assigned.treatment.model:
            return models
        try:
            model = (await self._models.plan(assigned.treatment.model)).targets[0][0]
        except DrwError:  # it is gone, killed, or not permitted anymore
            return models
        return model, *(other for other in models if other.id != model.id)
