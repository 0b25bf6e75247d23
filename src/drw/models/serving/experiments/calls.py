"""Experiments of one call: its arm, and the order of the models that answer under it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from drw.api.models.v1.serving_pb2 import CallAssignment
from drw.kernel.errors import DrwError
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.experiments.shadow import ShadowCalls
from drw.models.serving.metering.budget_gate import Headers
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import Completion, Sampling
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk
from drw.models.serving.responses_api.requests import CreateResponse
from drw.models.serving.routing.candidates import ChatModel, ModelRequest
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.routing.experiments.exposures import Assigned, Assignment
from drw.routing.experiments.routing_table import CallKind, CallUnits, RoutingTable

EXPERIMENT_HEADER = b"x-experiment"


def kind_of(request: Sampling, *, retrieves: bool = False) -> CallKind:
    """Return the kind of a request."""
    if isinstance(request, Completion):
        return CallKind(chat=False, text=isinstance(request.prompt, str))
    return CallKind(retrieves=retrieves)


def units_of(request: Sampling | CreateResponse, session: str, document: str, response_id: str) -> CallUnits:
    """Return the units of a request with these headers."""
    user = getattr(request, "safety_identifier", None) or request.user or ""
    session = session or getattr(request, "prompt_cache_key", None) or ""
    return CallUnits.bounded(user, session, document, response_id)


def expose(assignment: Assignment, record: CallRecord, headers: Headers | None) -> None:
    """Add the exposure of a call to its record, and its arm to the headers of the response."""
    record.assign(assignment)
    if headers is not None and assignment.label:
        headers.append((EXPERIMENT_HEADER, assignment.label.encode()))


class CallExperiments:
    """Assigns calls to arms, and resolves the models of arms."""

    def __init__(self, models: ModelDirectory, table: RoutingTable, shadows: ShadowCalls | None = None) -> None:
        self._models = models
        self._table = table
        self._shadows = shadows

    def assign(self, alias: str, kind: CallKind, units: CallUnits) -> Assigned:
        """Return the assignment of a call of the caller."""
        return Assigned(self._table.assign(alias, kind, caller_or_none(), units), kind.retrieves)

    def assigned(self, message: CallAssignment, response_id: str) -> Assigned:
        """Return the assignment of a call by the service that retrieved its passages."""
        return self._table.assigned(message, response_id)

    def shadowed(
        self,
        alias: str,
        kind: CallKind,
        model_request: ModelRequest,
        raw: bytes,
        answer: Answer,
        chunks: AsyncGenerator[Chunk, None],
    ) -> AsyncGenerator[Chunk, None]:
        """Return the chunks of a call; a copy follows them if a rollout samples the call."""
        rollout = self._table.shadow(alias, kind, caller_or_none()) if self._shadows else None
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
