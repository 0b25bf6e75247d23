"""One attempt at an answer, at one replica of one model: its chunks, and which of them may be passed on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.failover.continuation import Continuation
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.chunks import has_token, is_filtered, is_whole
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Body, Chunk, CountedPrompt, Endpoint, EngineEvent, EngineLimits
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.load_balancing import Replica

MAX_REASON = 32
OUTSIDE = -1
"""Of an attempt that has not entered its circuit: what becomes of it says nothing of the upstream."""


class Attempt:
    """One attempt.

    Chunks before the first token are held back, so that the caller gets nothing of a failed attempt. The chunk that
    ends the answer is held back until the engine has reported the end.
    """

    __slots__ = (
        "_answer",
        "_began",
        "_begun",
        "_finished",
        "_held",
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
        began: float,
        prompts: Sequence[CountedPrompt] = (),
    ) -> None:
        self.model = model
        self.replica = replica
        self.body = body
        self.limits = limits
        self.tokens = 0
        """Pieces of the answer so far, which are tokens as a rule."""
        self.ticket = OUTSIDE
        """Its entry in the circuit of its replica."""
        self.filtered = False
        """Whether a rule about content ended a part of the answer."""
        self.usage: dict[str, Any] | None = None
        self._answer = answer
        self._record = record
        self._continuation = continuation
        self._began = began
        self._prompts = prompts
        self._begun = False
        self._finished = 0
        self._held: list[Chunk] = []

    def stream(self, endpoint: Endpoint) -> AsyncGenerator[EngineEvent, None]:
        """Start the request at the engine."""
        target = self.replica.target
        return self.model.engine.stream(target, endpoint, target.sampled(self.body), self.limits, self._prompts)

    def patience(self, now: float) -> float:
        """Return the seconds that it may wait in the queue: half of those until the first token is due."""
        return max(0.0, min((self.limits.first_token - now) / 2, self.limits.end - now))

    def take(self, chunk: Chunk) -> Sequence[Chunk]:
        """Take a chunk; return the chunks to pass on now.

        Raises:
            ResponseTruncated: the engine ended the answer for a reason that leaves it incomplete.
        """
        if usage := chunk.get("usage"):
            self.usage = usage
        ended = self._ended(chunk)
        if self._finished >= self._answer.choices:
            self._held.append(chunk)
            return ()
        if self._continuation is not None:
            self._join(chunk)
        if not has_token(chunk):
            return self._wait(chunk)
        self._finished += ended
        if self._finished >= self._answer.choices:
            self._held.append(chunk)
            return ()
        self.tokens += 1
        if not self._begun:
            return self._begin(chunk)
        self._record.token()
        self._answer.add(chunk)
        return (chunk,)

    def whole(self) -> Sequence[Chunk]:
        """Return the chunks that were held back, now that the engine has finished.

        Raises:
            ResponseTruncated: it never reported the end of the answer.
        """
        held, self._held = self._held, []
        if not self._begun:
            self._record.token()
        for chunk in held:
            self._answer.add(chunk)
        self._answer.check_whole()
        return held

    def entry(self, outcome: str, now: float) -> dict[str, Any]:
        """Return what the record says of the attempt."""
        usage = self.usage or {"completion_tokens": self.tokens}
        counted = {name: usage[name] for name in ("prompt_tokens", "completion_tokens") if usage.get(name)}
        seconds = max(0.0, now - self._began)
        names = {"model": self.model.id, "replica": self.replica.name}
        return names | {"outcome": outcome, "ms": round(seconds * 1000, 2)} | counted

    def _ended(self, chunk: Chunk) -> int:
        """Return how many choices end with a chunk."""
        reasons = [reason for choice in chunk.get("choices") or () if (reason := choice.get("finish_reason"))]
        for reason in reasons:
            self.filtered = self.filtered or is_filtered(reason)
            if not is_whole(reason):
                message = f"the engine of {self.model.id!r} gave the answer up ({reason[:MAX_REASON]!r}): try again"
                raise ResponseTruncated(message)
        return len(reasons)

    def _begin(self, chunk: Chunk) -> Sequence[Chunk]:
        self._begun = True
        self.replica.circuit.answering(self.ticket)
        self._record.token()
        held, self._held = [*self._held, chunk], []
        for each in held:
            self._answer.add(each)
        return held

    def _wait(self, chunk: Chunk) -> Sequence[Chunk]:
        if self._begun:
            self._answer.add(chunk)
            return (chunk,)
        if self._answer.fresh:  # the head of a continuation would announce a second answer
            self._held.append(chunk)
        return ()

    def _join(self, chunk: Chunk) -> None:
        assert self._continuation is not None
        self._continuation.join(chunk)
        if self._continuation.closed:
            self._continuation = None
