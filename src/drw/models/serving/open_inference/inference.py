"""Inference on predictive models: candidates, checks, metering and audit of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from drw.kernel.errors import Unavailable
from drw.kernel.observability.overhead import waiting
from drw.kernel.rpc.context import caller
from drw.models.serving.errors import RequestTimedOut
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.metering.version_prices import default_price
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.open_inference.requests import InferRequest, check_against_model
from drw.models.serving.ports import short_digest
from drw.models.serving.routing.runtime_directory import RuntimeDirectory, RuntimeModel
from drw.tensors.datatypes import Tensor

Render = Callable[[str, str, Sequence[Tensor]], bytes]
"""Returns the response of a model (its id and version) with these outputs; the bytes are hashed for the audit log."""


class Inference:
    """Runs inference requests of REST and gRPC."""

    def __init__(self, models: RuntimeDirectory, metering: BudgetGate, random: Random) -> None:
        self._models = models
        self._metering = metering
        self._random = random

    async def run(self, request: InferRequest, record: CallRecord, render: Render) -> str:
        """Run a request and render its response; the record is closed. Return the id of the model that answered.

        Raises:
            NotFound, Forbidden, Killed: see `RuntimeDirectory.plan`.
            InvalidRequest: the tensors do not match the model, or the model rejects them.
            Unavailable: no candidate can be loaded, or its process does not answer.
            RateLimited: a budget or limit is exhausted, or the share of the queue.
            RequestTimedOut: the time limit of the request passed.
        """
        record.models.add(request.model)
        plan = await self._models.plan(request.model, request.version)
        models = plan.order(self._random)
        record.plan(plan.id, models[0].id, models[0].resolved.model.engine)
        for model in models[:-1]:
            try:
                return await self._run(request, model, record, render)
            except Unavailable as error:
                record.add_attempt({"model": model.id, "outcome": error.reason})
        return await self._run(request, models[-1], record, render)

    async def _run(self, request: InferRequest, model: RuntimeModel, record: CallRecord, render: Render) -> str:
        resolved = model.resolved.model
        record.set_model(resolved.id, resolved.engine, resolved.digest or resolved.id, requested=request.model)
        async with self._models.pool.lease(model.spec) as loaded:
            check_against_model(request, loaded.inputs, loaded.outputs)
            version = short_digest(loaded.digest)
            record.details |= {"version": loaded.digest, "rows": request.rows}
            async with self._metering.inference(
                resolved.id, version, request.rows, record, default_price(model.resolved)
            ):
                outputs = await self._outputs(request, model)
                record.set_answer(render(resolved.id, version, outputs), None)
        return resolved.id

    async def _outputs(self, request: InferRequest, model: RuntimeModel) -> tuple[Tensor, ...]:
        names = [output.name for output in request.outputs]
        try:
            with waiting("upstream"):
                async with asyncio.timeout(request.timeout_seconds):
                    return await self._models.pool.infer(model.spec, caller().org, request.inputs, names)
        except TimeoutError:
            message = f"the request did not end within its timeout of {request.timeout_seconds:g} s"
            raise RequestTimedOut(message) from None
