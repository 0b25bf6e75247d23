"""One attempt at an answer at one replica: receives chunks and decides which of them can be passed on."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.failover.continuation import Continuation
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.chunks import has_token, is_complete, is_filtered
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Body, Chunk, CountedPrompt, Endpoint, EngineEvent, EngineLimits
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.load_balancing import Replica

MAX_REASON = 32
NO_TICKET = -1
"""The ticket of an attempt that has not entered the circuit: its outcome does not affect the circuit."""


class Attempt:
    """One attempt.

    Chunks before the first token are buffered, so that the caller receives nothing of a failed attempt. The chunk
    that ends the answer is buffered until the engine has completed the stream.
    """

    __slots__ = (
        "_answer",
        "_started_at",
        "_started",
        "_finished_choices",
        "_buffer",
        "_prompts",
        "_record",
        "_continuation",
        "body",
        "filtered",
        "limits",
        "model",
        "replica",
        "ticket",
        "tokens",
        "usage",
    )

    def __init__(
        self,
        model: ChatModel,
        replica: Replica,
        body: Body,
        limits: EngineLimits,
        answer: Answer,
        record: CallRecord,
        continuation: Continuation | None,
        started_at: float,
        prompts: Sequence[CountedPrompt] = (),
    ) -> None:
        self.model = model
        self.replica = replica
        self.body = body
        self.limits = limits
        self.tokens = 0
        """Chunks of the answer so far; usually one token each."""
        self.ticket = NO_TICKET
        """Its ticket of the replica's circuit."""
        self.filtered = False
        """Whether a content filter ended a choice."""
        self.usage: dict[str, Any] | None = None
        self._answer = answer
        self._record = record
        self._continuation = continuation
        self._started_at = started_at
        self._prompts = prompts
        self._started = False
        self._finished_choices = 0
        self._buffer: list[Chunk] = []

    def stream(self, endpoint: Endpoint) -> AsyncGenerator[EngineEvent, None]:
        """Start the request at the engine."""
        target = self.replica.target
        return self.model.engine.stream(target, endpoint, target.with_sampling(self.body), self.limits, self._prompts)

    def queue_timeout(self, now: float) -> float:
        """Return the maximum seconds in the admission queue: half of the time until the first token must arrive."""
        return max(0.0, min((self.limits.first_token - now) / 2, self.limits.deadline - now))

    def receive(self, chunk: Chunk) -> Sequence[Chunk]:
        """Add a chunk; return the chunks that can be passed on now.

        Raises:
            ResponseTruncated: the finish reason means that the answer is incomplete.
        """
        if usage := chunk.get("usage"):
            self.usage = usage
        finished = self._count_finished(chunk)
        if self._finished_choices >= self._answer.choices:
            self._buffer.append(chunk)
            return ()
        if self._continuation is not None:
            self._continuation.deduplicate(chunk)
            if self._continuation.complete:
                self._continuation = None
        if not has_token(chunk):
            return self._receive_without_token(chunk)
        self._finished_choices += finished
        if self._finished_choices >= self._answer.choices:
            self._buffer.append(chunk)
            return ()
        self.tokens += 1
        self.replica.signals.progress_at = get_running_loop().time()
        if not self._started:
            return self._start(chunk)
        self._record.note_token()
        self._answer.add(chunk)
        return (chunk,)

    def finish(self) -> Sequence[Chunk]:
        """Return the buffered chunks after the engine has completed the stream.

        Raises:
            ResponseTruncated: a choice has no finish reason.
        """
        buffered, self._buffer = self._buffer, []
        if not self._started:
            self._record.note_token()
        for chunk in buffered:
            self._answer.add(chunk)
        self._answer.check_complete()
        return buffered

    def summary(self, outcome: str, now: float) -> dict[str, Any]:
        """Return the entry of the attempt in the call record."""
        usage = self.usage or {"completion_tokens": self.tokens}
        counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens") if usage.get(name)}
        seconds = max(0.0, now - self._started_at)
        names = {"model": self.model.id, "replica": self.replica.name}
        return names | {"outcome": outcome, "ms": round(seconds * 1000, 2)} | counts

    def _count_finished(self, chunk: Chunk) -> int:
        """Return the number of choices that a chunk ends."""
        reasons = [reason for choice in chunk.get("choices") or () if (reason := choice.get("finish_reason"))]
        for reason in reasons:
            self.filtered = self.filtered or is_filtered(reason)
            if not is_complete(reason):
                message = f"the engine of {self.model.id!r} ended the answer early ({reason[:MAX_REASON]!r}): try again"
                raise ResponseTruncated(message)
        return len(reasons)

    def _start(self, chunk: Chunk) -> Sequence[Chunk]:
        self._started = True
        self.replica.circuit.first_token(self.ticket)
        self._record.note_token()
        buffered, self._buffer = [*self._buffer, chunk], []
        for buffered_chunk in buffered:
            self._answer.add(buffered_chunk)
        return buffered

    def _receive_without_token(self, chunk: Chunk) -> Sequence[Chunk]:
        if self._started:
            self._answer.add(chunk)
            return (chunk,)
        if self._answer.single_model:  # the first chunk of a continuation would start a second message
            self._buffer.append(chunk)
        return ()
