"""Shadow calls: copies of answered calls for the candidate of a rollout, whose answers are compared and dropped.

A copy starts after the caller has its answer. Nobody waits for it, tool calls in its answer are not executed, and the
platform pays for it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import orjson
from prometheus_client import Counter as PrometheusCounter

from drw.api.models.v1.experiments_pb2 import RoutedRollout
from drw.billing.counters.client import CountersUnavailable
from drw.billing.reservations.metered_call import MeteredCall
from drw.kernel.errors import DrwError, RateLimited
from drw.kernel.rpc.context import Principal, acting_for, caller
from drw.kernel.storage import audit
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import Killed, KillList
from drw.models.serving.chat import generate
from drw.models.serving.errors import EngineBusy
from drw.models.serving.failover.loop import FailoverPolicy
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk
from drw.models.serving.routing.candidates import CandidateList, ChatModel, ModelRequest
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.routing.experiments.exposures import TOPIC

MAX_PROMPT_BYTES = 1 << 20
"""Longer prompts are not copied: a copy holds its prompt in memory."""
SECONDS = 120.0
"""Time limit of a copy."""
SHADOW_CALLS = PrometheusCounter(
    "drw_shadow_calls", "Copies of calls for the candidates of rollouts: compared, failed or dropped.", ["outcome"]
)
OVERLOADED = (RateLimited, EngineBusy, CountersUnavailable, Killed)
"""Errors for which the candidate is not to blame."""


@dataclass(frozen=True, slots=True)
class ShadowCopy:
    """An answered call."""

    rollout: RoutedRollout
    request: ModelRequest
    raw: bytes
    answer: Answer
    principal: Principal
    ms: float


class ShadowCalls:
    """Makes copies, at most `max_concurrent` at a time; the others are dropped and counted."""

    def __init__(
        self,
        models: ModelDirectory,
        policy: FailoverPolicy,
        metering: BudgetGate,
        kills: KillList,
        audit_writer: AuditWriter,
        max_concurrent: int,
    ) -> None:
        self._models = models
        self._policy = policy
        self._metering = metering
        self._kills = kills
        self._audit = audit_writer
        self._max_concurrent = max_concurrent
        self._dropped: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def after(
        self,
        chunks: AsyncGenerator[Chunk, None],
        rollout: RoutedRollout,
        request: ModelRequest,
        raw: bytes,
        answer: Answer,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of a call, and start its copy when the call has succeeded."""
        started_at = perf_counter()
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
        ms = (perf_counter() - started_at) * 1000
        self._start(ShadowCopy(rollout, request, raw, answer, caller(), ms))

    async def close(self) -> None:
        """Cancel the running copies."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, copy: ShadowCopy) -> None:
        if len(self._tasks) >= self._max_concurrent or copy.request.prompt_bytes > MAX_PROMPT_BYTES:
            self._drop(copy)
            return
        # Without the caller's deadline, span and measured waits.
        task = asyncio.create_task(self._run(copy), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drop(self, copy: ShadowCopy) -> None:
        self._dropped[copy.rollout.key] += 1
        SHADOW_CALLS.labels("dropped").inc()

    async def _run(self, copy: ShadowCopy) -> None:
        """Answer a copy as its caller, with the caller's kills and prefix cache, and record it as the platform."""
        record = CallRecord(self._audit, "shadow", copy.raw)
        with acting_for(copy.principal):
            answer = Answer(copy.request.endpoint, copy.rollout.model, copy.request.choices)
            comparison = _Comparison(copy, answer, lambda: self._dropped.pop(copy.rollout.key, 0))
            record.assign(comparison)
            try:
                async with asyncio.timeout(SECONDS):
                    await self._answer(copy, answer, record)
            except OVERLOADED as error:
                self._drop(copy)
                comparison.counts = False
                await _fail(record, error)
            except (DrwError, TimeoutError) as error:
                await _fail(record, error)

    async def _answer(self, copy: ShadowCopy, answer: Answer, record: CallRecord) -> None:
        name = copy.rollout.model
        record.models |= {copy.rollout.alias, name}
        model = (await self._models.plan(name)).targets[0][0]
        record.plan(name, model.id, model.engine_name)
        candidates = CandidateList(name, ((model, 1),), (), 0.0)
        deadline = self._policy.clock.time() + SECONDS
        request = replace(
            copy.request, models=(model,), stream=False, deadline=deadline, background=True, prompt_counts={}
        )
        with acting_for(None):  # the platform pays
            call = await self._metering.reserve(request)
        call.history.route = "shadow"
        chunks = generate(self._policy, candidates, request, answer, record, call)
        try:
            with self._kills.guard_block(copy.principal, lambda: record.models):
                async with aclosing(chunks):
                    async for _ in chunks:
                        pass
        except BaseException as error:
            await _settle(call, error)
            raise
        with acting_for(None):
            await call.finalize(record=record)


class _Comparison:
    """The event of a shadow call: whether its answer equals the caller's, and how long both took."""

    def __init__(self, copy: ShadowCopy, answer: Answer, take_dropped: Callable[[], int]) -> None:
        self.label = copy.rollout.name
        self.counts = True
        """Whether the candidate is compared: not if the copy was dropped."""
        self._copy = copy
        self._answer = answer
        self._take_dropped = take_dropped

    def details(self) -> dict[str, str]:
        """Return the rollout."""
        return {"experiment": self.label}

    def line(self, record: str, outcome: str, details: dict[str, Any], cost: int, *, failed: bool) -> audit.Line:
        """Return the audit record of a shadow call with its event."""
        shadow: dict[str, Any] = {"dropped": self._take_dropped()}
        if outcome == "ok":
            shadow |= self._compared(details)
            SHADOW_CALLS.labels("compared").inc()
        elif self.counts:
            shadow["failed"] = 1
            SHADOW_CALLS.labels("failed").inc()
        event = {"experiment": self._copy.rollout.key, "shadow": shadow}
        return audit.Line.with_event(record, TOPIC, orjson.dumps(event).decode())

    def written(self, *, committed: bool) -> None:
        """Do nothing: a copy that is not recorded is not compared."""

    def _compared(self, details: dict[str, Any]) -> dict[str, Any]:
        text, primary = self._answer.text, self._copy.answer
        return {
            "compared": 1,
            "same_text": int(text == primary.text),
            "same_finish_reason": int(self._answer.finish_reasons == primary.finish_reasons),
            "length_ratio": len(text) / max(1, len(primary.text)),
            "ms": details["ms"],
            "primary_ms": self._copy.ms,
        }


async def _settle(call: MeteredCall[ChatModel], error: BaseException) -> None:
    with acting_for(None):
        await call.finalize(error)


async def _fail(record: CallRecord, error: DrwError | TimeoutError) -> None:
    """Write the record of a copy without an answer, as the platform; without a database it is lost."""
    with acting_for(None):
        try:
            await record.fail(error)
        except DrwError:
            return
