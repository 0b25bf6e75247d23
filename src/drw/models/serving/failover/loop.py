"""Failover across candidate models for one request: the next attempt, what a failure means, and when to give up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from prometheus_client import Counter

from drw.billing.reservations.errors import ModelAtCapacity
from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList
from drw.models.serving.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    EngineBusy,
    EngineCoolingDown,
    EngineLimited,
    EngineUnavailable,
    RequestTimedOut,
)
from drw.models.serving.failover.attempts import Attempt
from drw.models.serving.failover.continuation import NO, Continuation, continued, may_continue
from drw.models.serving.failover.failure_policy import FailureCause, cause
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.messages import without_reasoning
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import FOREVER, Body, EngineLimits
from drw.models.serving.routing.candidates import CandidateList, ChatModel, ModelRequest, check_length
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica, pick
from drw.models.serving.settings import CircuitSettings

FALLBACKS = Counter("drw_fallbacks", "Times that a request went on to another model.", ["from", "to", "reason"])
MAX_REST_SECONDS = 60.0
"""An upstream that asks for a longer pause is tried again after this one."""
CHARACTERS_PER_TOKEN, CHARACTERS_PER_PIECE = 4, 12
"""Where pieces are longer than tokens are, an engine sends several tokens in a piece, and they must be guessed."""


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """What failover of all requests of a process shares."""

    clock: Clock
    random: Random
    retries: RetryBudget
    circuits: CircuitSettings
    kills: KillList
    total_seconds: float

    def end(self, candidates: CandidateList, models: Sequence[ChatModel]) -> float:
        """Return the deadline of a request to these models that begins now."""
        seconds = candidates.total_seconds or models[0].total_seconds or self.total_seconds
        left = context.time_left()
        return self.clock.time() + (seconds if left is None else min(seconds, left))


class Failover:
    """Failover for one request."""

    def __init__(
        self,
        policy: FailoverPolicy,
        candidates: CandidateList,
        request: ModelRequest,
        answer: Answer,
        record: CallRecord,
    ) -> None:
        self._policy = policy
        self._request = request
        self._answer = answer
        self._record = record
        self._name = candidates.id
        self._models = request.models
        check_length(self._models, request)
        self._failed: dict[Replica, bool] = {}
        """Replicas that failed for this request, mapped to whether a retry is allowed."""
        self._refused: set[str] = set()
        """Models at capacity, or that reject a request that another one accepted."""
        self._too_small = 0
        """The largest context length that was too small."""
        self._error: DrwError | None = None
        """The first failure, which the caller gets in the end."""
        self._reason = ""
        self._last: ChatModel | None = None
        self._attempts = 0
        self._retries = 0
        self._tokens = 0
        """Pieces of the answer that were sent."""
        self.sent = False
        """Whether the caller has a part of the answer."""
        policy.retries.request()

    async def next(self) -> Attempt:
        """Return the next attempt, after the pause that it needs.

        Raises:
            DrwError: no candidate is left; it is the first failure.
        """
        while True:
            model, replica, wait = self._choose()
            if wait <= 0:
                return self._begin(model, replica)
            await self._policy.clock.sleep(wait)

    def enter(self, attempt: Attempt) -> None:
        """Enter the circuit of an attempt after its wait in the queue, in which the circuit may have opened.

        Raises:
            EngineCoolingDown: the circuit is open.
        """
        now, circuit = self._policy.clock.time(), attempt.replica.circuit
        if circuit.ready_at > now:
            raise _resting(attempt.model, attempt.replica, now)
        attempt.ticket = circuit.enter()

    def succeeded(self, attempt: Attempt) -> None:
        """Record a complete answer."""
        attempt.replica.circuit.succeeded(attempt.ticket)
        self._close(attempt, "ok")
        if self._tokens and (usage := self._answer.usage):
            self._answer.usage = _whole_usage(usage, self._tokens)

    def failed(self, attempt: Attempt, error: DrwError) -> None:
        """Record a failure; raise an error where no other attempt may help."""
        if attempt.filtered and not isinstance(error, ContentFiltered):
            error = ContentFiltered("a content filter ended the answer")  # whatever broke after it
        why = cause(error)
        self._note(attempt, error, why)
        self._close(attempt, why.reason)
        self._failed[attempt.replica] = why.again
        self._tokens += attempt.tokens if self.sent else 0
        self._reason = why.reason
        if self._request.endpoint == "completions" and error.metadata.get("param") == "messages":
            error.metadata["param"] = "prompt"  # the check names the field of chat requests
        final = False
        if isinstance(error, ContextLengthExceeded):
            self._too_small = max(self._too_small, attempt.model.context_length) or int(1e9)
        elif isinstance(error, EngineBusy | ModelAtCapacity):
            self._refused.add(attempt.model.id)  # its queue and its limits are those of all its replicas
        elif not why.elsewhere:
            final = not self._skip_fallback(attempt, error)
        self._error = self._error or error
        if final or (self.sent and not may_continue(self._request.endpoint, self._request.body, self._answer)):
            try:
                raise error
            finally:
                del error  # which knows this frame

    def close(self) -> None:
        """Drop the failures: the traceback of each refers to this object, the request and its body."""
        self._error = None

    def left(self, attempt: Attempt, outcome: str) -> None:
        """Record an attempt that the caller or the platform ended."""
        attempt.replica.circuit.left(attempt.ticket)
        self._close(attempt, outcome)

    def _skip_fallback(self, attempt: Attempt, error: DrwError) -> bool:
        """Skip a fallback that rejects the request; return False where the error is final."""
        if self._error is None or not isinstance(error, InvalidRequest) or cause(error).reason != "refused":
            return False
        self._refused.add(attempt.model.id)
        return True

    def _choose(self) -> tuple[ChatModel, Replica, float]:
        """Return the next model and replica, and after how many seconds to try them."""
        now = self._policy.clock.time()
        if now >= self._request.end:
            raise RequestTimedOut("the time for this request ran out") from self._error
        if self._attempts < self._policy.retries.settings.max_attempts:
            for model in self._models:
                if self._may(model) and (ready := self._ready(model, now)):
                    return model, self._pick(model, ready), 0.0
            if (later := self._later(now)) is not None:
                return later
        raise self._error or self._no_candidate(now)

    def _may(self, model: ChatModel) -> bool:
        """Tell whether a model can answer this request as it stands, and was not killed since it began."""
        if self._policy.kills.find_model(context.caller_or_none(), model.id):
            return False
        if self._too_small and model.context_length <= self._too_small:
            return False
        if self.sent and model.prefill == NO and self._request.endpoint != "completions":
            return False
        return model.id not in self._refused and model.takes(self._request.max_tokens)

    def _ready(self, model: ChatModel, now: float) -> list[Replica]:
        return [r for r in model.replicas if r.ready_at <= now and r not in self._failed]

    def _pick(self, model: ChatModel, ready: list[Replica]) -> Replica:
        several = len(model.replicas) > 1
        return pick(ready, self._request.affinity.key(model.affinity) if several else "", self._policy.random)

    def _later(self, now: float) -> tuple[ChatModel, Replica, float] | None:
        """Return who can be tried after a pause: replicas that failed, or that accept no requests yet."""
        pause = self._policy.retries.wait(max(1, self._attempts))
        options: list[tuple[bool, float, int]] = []
        endpoints = [(model, replica) for model in self._models if self._may(model) for replica in model.replicas]
        for number, (_, replica) in enumerate(endpoints):
            failed = replica in self._failed
            if replica.circuit.ready_at > now or not self._failed.get(replica, True):
                continue
            if failed and self._retries >= self._policy.retries.settings.max_retries:
                continue
            rested = replica.rests_until + self._policy.random.random() * pause  # not all who wait at once
            when = max(rested, now + pause if failed else now)
            if when - now <= self._policy.retries.settings.max_wait_seconds and when < self._request.end:
                just_now = failed and replica is next(reversed(self._failed))
                options.append((just_now, when, number))
        if not options:
            return None
        _, when, number = min(options)
        model, replica = endpoints[number]
        if self._failed.pop(replica, None) is None:
            return model, replica, when - now
        # From here on it counts as untried: after the pause the choice is made again.
        self._retries += 1
        return (model, replica, when - now) if self._policy.retries.spend() else None

    def _no_candidate(self, now: float) -> DrwError:
        """Return the error where no candidate could be tried."""
        endpoints = [(model, replica) for model in self._models if self._may(model) for replica in model.replicas]
        if not endpoints:
            return EngineUnavailable("no model is left that may answer")
        return _resting(*min(endpoints, key=lambda endpoint: min(endpoint[1].ready_at, now + MAX_REST_SECONDS)), now)

    def _begin(self, model: ChatModel, replica: Replica) -> Attempt:
        now = self._policy.clock.time()
        self._attempts += 1
        self._count_fallback(model)
        self._last = model
        body, continuation = self._request.body, None
        if self.sent:
            body, continuation = self._continued(model)
            self._answer.go_on(model.id)
        else:
            self._answer.begin(model.id)
        if not model.takes_reasoning:
            body = without_reasoning(body)
        limits = EngineLimits(self._patience(model, replica, now), self._request.end)
        replica.outstanding += 1
        address = replica.target.base_url
        self._record.served_by(model.id, model.engine_name, model.upstream_model, requested=self._name, address=address)
        self._record.sent(body)
        prompts = self._request.counted(model, body, replica)
        return Attempt(model, replica, body, limits, self._answer, self._record, continuation, now, prompts)

    def _continued(self, model: ChatModel) -> tuple[Body, Continuation]:
        text = self._answer.text
        tokens = self._tokens
        if len(text) > CHARACTERS_PER_PIECE * tokens:
            tokens = len(text) // CHARACTERS_PER_TOKEN
        body = continued(self._request.endpoint, self._request.body, text, tokens, model.prefill)
        if body is None:
            assert self._error is not None
            raise self._error
        return body, Continuation(text)

    def _patience(self, model: ChatModel, replica: Replica, now: float) -> float:
        """Return until when the first token must come: where others could answer, they need time for it too."""
        if len(self._models) == 1 and len(model.replicas) == 1:
            return FOREVER
        others = (r for m in self._models if self._may(m) for r in self._ready(m, now) if r is not replica)
        if next(others, None) is None:
            return FOREVER
        left = self._request.end - now
        if replica.circuit.state is State.CLOSED:
            return now + left / 2
        return now + min(left / 4, self._policy.circuits.probe_seconds)

    def _count_fallback(self, model: ChatModel) -> None:
        before = self._last or self._models[0]
        if model is not before:
            FALLBACKS.labels(before.id, model.id, self._reason or self._why_not(before)).inc()

    def _why_not(self, model: ChatModel) -> str:
        if not self._may(model):
            return "context_length"
        closed = any(replica.circuit.state is State.CLOSED for replica in model.replicas)
        return "rate_limited" if closed else "circuit_open"

    def _note(self, attempt: Attempt, error: DrwError, why: FailureCause) -> None:
        """Tell the circuit, and remember a pause that the upstream asks for."""
        replica = attempt.replica
        if isinstance(error, EngineBusy | ModelAtCapacity | EngineCoolingDown | RequestTimedOut):
            replica.circuit.left(attempt.ticket)  # nothing is known of the upstream
            return
        if why.blames:
            replica.circuit.failed(attempt.ticket)
        else:
            replica.circuit.answering(attempt.ticket)
        after = error.metadata.get("retry_after") or ("1" if isinstance(error, EngineLimited) else "")
        if after.isdigit():
            replica.rests_until = self._policy.clock.time() + min(float(after), MAX_REST_SECONDS)
            replica.limited = isinstance(error, EngineLimited)

    def _close(self, attempt: Attempt, outcome: str) -> None:
        attempt.replica.outstanding -= 1
        self._record.attempt(attempt.entry(outcome, self._policy.clock.time()))


def _resting(model: ChatModel, replica: Replica, now: float) -> EngineCoolingDown | EngineLimited:
    """Return the error of a replica that accepts no request now."""
    if replica.circuit.state is State.HALF_OPEN:
        message = f"the engine of {model.id!r} failed again and again, and is being tried by another request"
        return EngineCoolingDown(message, retry_after="1")
    seconds = str(max(1, round(replica.ready_at - now)))
    if replica.circuit.state is State.OPEN:
        message = f"the engine of {model.id!r} failed again and again, and is left alone for {seconds} s"
        return EngineCoolingDown(message, retry_after=seconds)
    if not replica.limited:
        message = f"the engine of {model.id!r} failed, and wants to be left alone for {seconds} s"
        return EngineCoolingDown(message, retry_after=seconds)
    message = f"the upstream of {model.id!r} is over its limit for {seconds} s more"
    return EngineLimited(message, retry_after=seconds)


def _whole_usage(usage: dict[str, object], earlier: int) -> dict[str, object]:
    """Return the usage of an answer that was gone on with: what was there before is no part of the prompt.

    The engine that went on counted the earlier text with the prompt; the total is as it says.
    """
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return usage
    moved = min(earlier, prompt)
    return usage | {"prompt_tokens": prompt - moved, "completion_tokens": completion + moved}
