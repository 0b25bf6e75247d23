"""Prepares a chat or completion request of HTTP or RPC: candidates, deadline and the metered run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from drw.models.serving.chat import generate
from drw.models.serving.experiments.calls import EXPERIMENT_HEADER, CallExperiments
from drw.models.serving.experiments.routing_table import CallUnits, RoutingTable
from drw.models.serving.failover.loop import FailoverPolicy
from drw.models.serving.metering.budget_gate import BudgetGate, Headers
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import Sampling
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk, Endpoint
from drw.models.serving.routing.candidates import ModelRequest, eligible_models, prompt_bytes
from drw.models.serving.routing.load_balancing import Affinity, session_owner
from drw.models.serving.routing.model_directory import ModelDirectory


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
        self._experiments = experiments or CallExperiments(models, RoutingTable())

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
    ) -> tuple[Answer, AsyncGenerator[Chunk, None]]:
        """Return the answer, which grows as the chunks are read, and the chunks, which the caller closes.

        `model` is the id of a model or an alias; empty: the default model. `stream`: pass the
        chunks on as they arrive. The headers of the response are added to `headers`. `session` and `document` are the
        units of experiments that headers name.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: it is no chat model, or none of the models takes such a request.
            Killed: a kill switch stops it.
        """
        record.models.add(model)
        candidates = await self._models.plan(model)
        answer = Answer(endpoint, candidates.id, request.choices)
        assigned = self._experiments.assign(model, request, CallUnits.of(request, session, document, answer.id))
        if assigned is not None:
            assigned.response_id = answer.id
            record.assign(assigned)
            if headers is not None and assigned.label:
                headers.append((EXPERIMENT_HEADER, assigned.label.encode()))
        max_tokens_param, max_tokens = request.max_answer_tokens()
        body = request.body()
        if assigned is not None and assigned.treatment.chat_only:
            body = assigned.treatment.apply(body, max_tokens_param)
            max_tokens = body.get(max_tokens_param)
        affinity = Affinity(session_owner(), session or request.session, body)
        order = candidates.order(affinity)
        if assigned is not None:
            order = await self._experiments.order(assigned, order)
        models = eligible_models(request, candidates, order)
        record.plan(candidates.id, models[0].id, models[0].engine_name)
        model_request = ModelRequest(
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
        )
        run = partial(generate, self._policy, candidates, model_request, answer, record)
        return answer, self._metering.metered(model_request, record, run, headers)
