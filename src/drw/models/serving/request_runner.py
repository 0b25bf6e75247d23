"""Prepares a chat or completion request of HTTP or RPC: candidates, deadline and the metered run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from drw.kernel.errors import InvalidRequest
from drw.models.serving.chat import generate
from drw.models.serving.engines.token_counting import count_prompt
from drw.models.serving.experiments.calls import CallExperiments, expose, kind_of, units_of
from drw.models.serving.failover.loop import FailoverPolicy
from drw.models.serving.metering.budget_gate import BudgetGate, Headers
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import ChatCompletion, Sampling
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk, Endpoint
from drw.models.serving.routing.candidates import (
    CandidateList,
    ModelRequest,
    check_prompt_bytes,
    eligible_models,
    prompt_bytes,
)
from drw.models.serving.routing.load_balancing import Affinity, session_owner
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.routing.experiments.exposures import Assigned, Assignment
from drw.routing.experiments.routing_table import RoutingTable


class RequestRunner:
    """Runs requests of HTTP and RPC."""

    def __init__(
        self,
        models: ModelDirectory,
        policy: FailoverPolicy,
        metering: BudgetGate,
        experiments: CallExperiments | None = None,
    ) -> None:
        self._models = models
        self._policy = policy
        self._metering = metering
        self.experiments = experiments or CallExperiments(models, RoutingTable())

    async def start(
        self,
        endpoint: Endpoint,
        request: Sampling,
        record: CallRecord,
        *,
        model: str,
        stream: bool,
        session: str = "",
        document: str = "",
        headers: Headers | None = None,
        background: bool = False,
        answer_id: str = "",
        assigned: Assigned | None = None,
    ) -> tuple[Answer, AsyncGenerator[Chunk, None]]:
        """Return the answer, which grows as the chunks are read, and the chunks, which the caller closes.

        `model` is the id of a model or an alias; empty: the default model. `stream`: pass the
        chunks on as they arrive. The headers of the response are added to `headers`. `session` and `document` are the
        units of experiments that headers name. `background`: let interactive requests go first. `answer_id`: the id of
        the answer; empty: a new one. `assigned`: the assignment of a call whose passages were retrieved under it.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: it is no chat model, or none of the models takes such a request.
            Killed: a kill switch stops it.
        """
        record.models.add(model)
        answer = Answer(endpoint, model, request.choices, answer_id)
        kind = kind_of(request, retrieves=assigned is not None and assigned.retrieves)
        if assigned is None:
            units = units_of(request, session, document, answer.id)
            assigned = self.experiments.assign(model, kind, units)
        if assigned.assignment:
            expose(assigned.assignment, record, headers)
        candidates, model_request = await self._plan(
            endpoint, request, model, session, assigned.assignment, stream=stream, background=background
        )
        first = model_request.models[0]
        record.plan(candidates.id, first.id, first.engine_name)
        answer.start(candidates.id)
        run = partial(generate, self._policy, candidates, model_request, answer, record)
        chunks = self._metering.metered(model_request, record, run, headers)
        return answer, self.experiments.shadowed(model, kind, model_request, record.request, answer, chunks)

    async def count_tokens(self, request: ChatCompletion, model: str) -> int:
        """Return the tokens of the prompt of a chat at the first candidate.

        Raises:
            InvalidRequest: its engine cannot count tokens, or takes no such request; also as `start` does.
            Unavailable: its engine does not answer in time.
        """
        _, model_request = await self._plan("chat/completions", request, model)
        check_prompt_bytes(model_request)
        first = model_request.models[0]
        if (tokens := await count_prompt(first, model_request)) is None:
            message = f"the engine of {first.id!r} cannot count tokens before it answers: read the usage of its answers"
            raise InvalidRequest(message, param="model")
        return tokens

    async def _plan(
        self,
        endpoint: Endpoint,
        request: Sampling,
        model: str,
        session: str = "",
        assigned: Assignment | None = None,
        *,
        stream: bool = False,
        background: bool = False,
    ) -> tuple[CandidateList, ModelRequest]:
        candidates = await self._models.plan(model)
        body = request.body()
        max_tokens_param, max_tokens = request.max_answer_tokens()
        if assigned is not None and assigned.treatment.chat_only:
            body = assigned.treatment.apply(body, max_tokens_param)
            max_tokens = body.get(max_tokens_param)
        affinity = Affinity(session_owner(), session or request.session, body)
        order = await self.experiments.order(assigned, candidates.order(affinity))
        models = eligible_models(request, candidates, order)
        return candidates, ModelRequest(
            endpoint,
            body,
            affinity,
            models,
            stream,
            request.choices,
            max_tokens_param,
            max_tokens,
            prompt_bytes(body),
            self._policy.deadline(candidates, models),
            background,
        )
