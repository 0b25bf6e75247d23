"""Failover across candidate models for one request: selects attempts, handles failures and retries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from prometheus_client import Counter

from drw.billing.reservations.errors import ModelAtCapacity
from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.observability.model_labels import model_label
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
from drw.models.serving.failover.continuation import NO_PREFILL, Continuation, continuation_request, may_continue
from drw.models.serving.failover.failure_policy import FailureClass, classify
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.messages import without_reasoning
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import NO_DEADLINE, Body, EngineLimits
from drw.models.serving.routing.candidates import CandidateList, ChatModel, ModelRequest, check_answer_length
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica, choose_replica
from drw.models.serving.settings import CircuitSettings

FALLBACKS = Counter("drw_fallbacks", "Times that a request went on to another model.", ["from", "to", "reason"])
MAX_BACKOFF_SECONDS = 60.0
"""Maximum backoff that an upstream can request."""
CHARACTERS_PER_TOKEN, CHARACTERS_PER_CHUNK = 4, 12
"""If the average chunk is longer than this, it has several tokens, and their number is estimated by characters."""


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """Settings and state that all requests of a process share."""

    clock: Clock
    random: Random
    retries: RetryBudget
    circuits: CircuitSettings
    kills: KillList
    total_seconds: float

    def deadline(self, candidates: CandidateList, models: Sequence[ChatModel]) -> float:
        """Return the deadline of a request to these models that starts now."""
        seconds = candidates.total_seconds or models[0].total_seconds or self.total_seconds
        remaining = context.time_left()
        return self.clock.time() + (seconds if remaining is None else min(seconds, remaining))


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
        check_answer_length(self._models, request)
        self._failed: dict[Replica, bool] = {}
        """Replicas that failed for this request, mapped to whether a retry may succeed."""
        self._excluded: set[str] = set()
        """Models that are at capacity, or that reject a request that another model accepted."""
        self._exceeded_length = 0
        """The largest context length that was too short."""
        self._error: DrwError | None = None
        """The first failure, which the caller receives if all attempts fail."""
        self._reason = ""
        self._last_model: ChatModel | None = None
        self._attempts = 0
        self._retries = 0
        self._tokens = 0
        """Chunks of the answer that were sent."""
        self.sent = False
        """Whether the caller has received a part of the answer."""
        policy.retries.add_request()

    async def next(self) -> Attempt:
        """Return the next attempt, after its backoff.

        Raises:
            DrwError: no candidate is left; the error is the first failure.
        """
        while True:
            model, replica, wait = self._choose()
            if wait <= 0:
                return self._begin(model, replica)
            await self._policy.clock.sleep(wait)

    def enter_circuit(self, attempt: Attempt) -> None:
        """Enter the circuit of an attempt after its wait in the queue; the circuit may have opened in the meantime.

        Raises:
            EngineCoolingDown: the circuit is open.
        """
        now, circuit = self._policy.clock.time(), attempt.replica.circuit
        if circuit.ready_at > now and not circuit.unconfirmed:
            raise _cooling_down_error(attempt.model, attempt.replica, now)
        attempt.ticket = circuit.enter()

    def succeeded(self, attempt: Attempt) -> None:
        """Record a complete answer."""
        attempt.replica.circuit.succeeded(attempt.ticket)
        attempt.replica.signals.success(self._policy.clock.time())
        self._close(attempt, "ok")
        if self._tokens and (usage := self._answer.usage):
            self._answer.usage = _total_usage(usage, self._tokens)

    def failed(self, attempt: Attempt, error: DrwError) -> None:
        """Record a failure; raise its error if no other attempt can help."""
        if attempt.filtered and not isinstance(error, ContentFiltered):
            error = ContentFiltered("a content filter ended the answer")  # also if the connection broke afterwards
        failure = classify(error)
        self._update_circuit(attempt, error, failure)
        self._close(attempt, failure.reason)
        self._failed[attempt.replica] = failure.retry
        self._tokens += attempt.tokens if self.sent else 0
        self._reason = failure.reason
        if self._request.endpoint == "completions" and error.metadata.get("param") == "messages":
            error.metadata["param"] = "prompt"  # the check names the field of chat requests
        final = False
        if isinstance(error, ContextLengthExceeded):
            self._exceeded_length = max(self._exceeded_length, attempt.model.context_length) or int(1e9)
        elif isinstance(error, EngineBusy | ModelAtCapacity):
            self._excluded.add(attempt.model.id)  # queue and limits apply to all replicas of the model
        elif not failure.try_elsewhere:
            final = not self._skip_fallback(attempt, error)
        self._error = self._error or error
        if final or (self.sent and not may_continue(self._request.endpoint, self._request.body, self._answer)):
            try:
                raise error
            finally:
                del error  # it refers to this frame

    def close(self) -> None:
        """Drop the error: its traceback refers to this object, the request and its body."""
        self._error = None

    def abandoned(self, attempt: Attempt, outcome: str) -> None:
        """Record an attempt that the caller or the platform cancelled."""
        attempt.replica.circuit.abandoned(attempt.ticket)
        self._close(attempt, outcome)

    def _skip_fallback(self, attempt: Attempt, error: DrwError) -> bool:
        """Exclude a fallback that rejects the request; return False if the error is final."""
        if self._error is None or not isinstance(error, InvalidRequest) or classify(error).reason != "refused":
            return False
        self._excluded.add(attempt.model.id)
        return True

    def _choose(self) -> tuple[ChatModel, Replica, float]:
        """Return the next model and replica, and the seconds to wait before the attempt."""
        now = self._policy.clock.time()
        if now >= self._request.deadline:
            raise RequestTimedOut("the time for this request ran out") from self._error
        if self._attempts < self._policy.retries.settings.max_attempts:
            for model in self._models:
                if self._is_eligible(model) and (ready := self._ready_replicas(model, now)):
                    key = self._request.affinity.key(model.affinity) if len(model.replicas) > 1 else ""
                    return model, choose_replica(ready, key, self._policy.random), 0.0
            if (unconfirmed := self._unconfirmed_candidate(now)) is not None:
                return *unconfirmed, 0.0
            if (delayed := self._delayed_candidate(now)) is not None:
                return delayed
        raise self._error or self._no_candidate_error(now)

    def _is_eligible(self, model: ChatModel) -> bool:
        """Return whether a model can still answer this request and is not killed."""
        if self._policy.kills.find_model(context.caller_or_none(), model.id):
            return False
        if self._exceeded_length and model.context_length <= self._exceeded_length:
            return False
        if self.sent and model.prefill == NO_PREFILL and self._request.endpoint != "completions":
            return False
        return model.id not in self._excluded and model.accepts_answer(self._request.max_tokens)

    def _ready_replicas(self, model: ChatModel, now: float) -> list[Replica]:
        return [r for r in model.replicas if r.ready_at <= now and r not in self._failed]

    def _eligible_replicas(self) -> list[tuple[ChatModel, Replica]]:
        return [(model, replica) for model in self._models if self._is_eligible(model) for replica in model.replicas]

    def _unconfirmed_candidate(self, now: float) -> tuple[ChatModel, Replica] | None:
        """Return a replica that failed probes only: the upstream may be back before the next probe."""
        for model, replica in self._eligible_replicas():
            if replica.circuit.unconfirmed and replica.backoff_until <= now and replica not in self._failed:
                return model, replica
        return None

    def _delayed_candidate(self, now: float) -> tuple[ChatModel, Replica, float] | None:
        """Return a replica that can be tried after a wait: one that failed, or that accepts no requests yet."""
        backoff_seconds = self._policy.retries.backoff(max(1, self._attempts))
        options: list[tuple[bool, float, int]] = []
        replicas = self._eligible_replicas()
        for number, (_, replica) in enumerate(replicas):
            failed = replica in self._failed
            if replica.circuit.ready_at > now or not self._failed.get(replica, True):
                continue
            if failed and self._retries >= self._policy.retries.settings.max_retries:
                continue
            available_at = replica.backoff_until + self._policy.random.random() * backoff_seconds  # with jitter
            retry_at = max(available_at, now + backoff_seconds if failed else now)
            if retry_at - now <= self._policy.retries.settings.max_wait_seconds and retry_at < self._request.deadline:
                just_failed = failed and replica is next(reversed(self._failed))
                options.append((just_failed, retry_at, number))
        if not options:
            return None
        _, retry_at, number = min(options)
        model, replica = replicas[number]
        if self._failed.pop(replica, None) is None:
            return model, replica, retry_at - now
        # The replica counts as untried from now on: the choice is repeated after the wait.
        self._retries += 1
        return (model, replica, retry_at - now) if self._policy.retries.spend() else None

    def _no_candidate_error(self, now: float) -> DrwError:
        """Return the error if no candidate could be tried."""
        if not (replicas := self._eligible_replicas()):
            return EngineUnavailable("no model is left that can answer")
        model, replica = min(replicas, key=lambda pair: min(pair[1].ready_at, now + MAX_BACKOFF_SECONDS))
        return _cooling_down_error(model, replica, now)

    def _begin(self, model: ChatModel, replica: Replica) -> Attempt:
        now = self._policy.clock.time()
        self._attempts += 1
        self._count_fallback(model)
        self._last_model = model
        body, continuation = self._request.body, None
        if self.sent:
            body, continuation = self._continuation(model)
            self._answer.continue_with(model.id)
        else:
            self._answer.start(model.id)
        if not model.takes_reasoning:
            body = without_reasoning(body)
        limits = EngineLimits(self._first_token_deadline(model, replica, now), self._request.deadline)
        if not replica.outstanding:
            replica.signals.waiting_since = now
        replica.outstanding += 1
        address = replica.target.base_url
        self._record.set_model(model.id, model.engine_name, model.upstream_model, requested=self._name, address=address)
        self._record.trace_request(body)
        prompts = self._request.counted(model, body, replica)
        return Attempt(model, replica, body, limits, self._answer, self._record, continuation, now, prompts)

    def _continuation(self, model: ChatModel) -> tuple[Body, Continuation]:
        text = self._answer.text
        tokens = self._tokens
        if len(text) > CHARACTERS_PER_CHUNK * tokens:
            tokens = len(text) // CHARACTERS_PER_TOKEN
        body = continuation_request(self._request.endpoint, self._request.body, text, tokens, model.prefill)
        if body is None:
            assert self._error is not None
            raise self._error
        return body, Continuation(text)

    def _first_token_deadline(self, model: ChatModel, replica: Replica, now: float) -> float:
        """Return the deadline of the first token; it leaves time for other candidates that are ready."""
        if len(self._models) == 1 and len(model.replicas) == 1:
            return NO_DEADLINE
        ready = (r for m in self._models if self._is_eligible(m) for r in self._ready_replicas(m, now))
        if all(other is replica for other in ready):
            return NO_DEADLINE
        remaining = self._request.deadline - now
        if replica.circuit.state is State.CLOSED:
            return now + remaining / 2
        return now + min(remaining / 4, self._policy.circuits.probe_seconds)

    def _count_fallback(self, model: ChatModel) -> None:
        previous = self._last_model or self._models[0]
        if model is not previous:
            FALLBACKS.labels(
                model_label(previous.id), model_label(model.id), self._reason or self._skip_reason(previous)
            ).inc()

    def _skip_reason(self, model: ChatModel) -> str:
        if not self._is_eligible(model):
            return "context_length"
        closed = any(replica.circuit.state is State.CLOSED for replica in model.replicas)
        return "rate_limited" if closed else "circuit_open"

    def _update_circuit(self, attempt: Attempt, error: DrwError, failure: FailureClass) -> None:
        """Report a failure to the circuit, and store the backoff that the upstream requests."""
        replica = attempt.replica
        if isinstance(error, EngineBusy | ModelAtCapacity | EngineCoolingDown | RequestTimedOut):
            replica.circuit.abandoned(attempt.ticket)  # not a failure of the upstream
            return
        if failure.blames_upstream:
            replica.signals.failure(error.reason)
            replica.circuit.failed(attempt.ticket)
        else:
            replica.circuit.first_token(attempt.ticket)
        retry_after = error.metadata.get("retry_after") or ("1" if isinstance(error, EngineLimited) else "")
        if retry_after.isdigit():
            replica.backoff_until = self._policy.clock.time() + min(float(retry_after), MAX_BACKOFF_SECONDS)
            replica.rate_limited = isinstance(error, EngineLimited)

    def _close(self, attempt: Attempt, outcome: str) -> None:
        attempt.replica.outstanding -= 1
        self._record.add_attempt(attempt.summary(outcome, self._policy.clock.time()))


def _cooling_down_error(model: ChatModel, replica: Replica, now: float) -> EngineCoolingDown | EngineLimited:
    """Return the error for a replica that does not accept requests now."""
    if replica.circuit.state is State.HALF_OPEN:
        message = f"the engine of {model.id!r} failed repeatedly, and another request probes it now"
        return EngineCoolingDown(message, retry_after="1")
    seconds = str(max(1, round(replica.ready_at - now)))
    if replica.circuit.state is State.OPEN:
        message = f"the engine of {model.id!r} failed repeatedly, and receives no requests for {seconds} s"
        return EngineCoolingDown(message, retry_after=seconds)
    if not replica.rate_limited:
        message = f"the engine of {model.id!r} failed, and accepts no requests for {seconds} s"
        return EngineCoolingDown(message, retry_after=seconds)
    message = f"the upstream of {model.id!r} is over its rate limit for {seconds} s more"
    return EngineLimited(message, retry_after=seconds)


def _total_usage(usage: dict[str, object], earlier: int) -> dict[str, object]:
    """Return the usage of a continued answer, with the earlier text counted as completion.

    The engine of the continuation counted the earlier text with the prompt. The total does not change.
    """
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return usage
    moved = min(earlier, prompt)
    return usage | {"prompt_tokens": prompt - moved, "completion_tokens": completion + moved}
