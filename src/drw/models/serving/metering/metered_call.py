"""One metered call: what it may cost is held from before its first attempt to after its last."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from drw.billing.amounts import Price, to_usd
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settled
from drw.billing.subjects import of_model
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound, RateLimited
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.metering.local_quota import QuotaShare
from drw.models.serving.metering.quota_errors import CODE, EngineOvershot, InsufficientQuota
from drw.models.serving.metering.reservation_client import Reservation
from drw.models.serving.observability.call_record import CallRecord, ClientGone, Pay
from drw.models.serving.openai.chunks import has_words
from drw.models.serving.ports import Body, Chunk
from drw.models.serving.routing.candidates import ChatModel

LEFT = (ClientGone, asyncio.CancelledError, GeneratorExit)
REFUSED = (InvalidRequest, NotFound, Forbidden, RateLimited)
MOST_COUNTED = 1 << 31
"""What an engine says it counted is below this, or it is no count."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that an attempt can take."""

    model: str
    upstream: str
    price: Price
    prompt: int
    completion: int
    bounds: Mapping[str, int] = field(default_factory=dict)
    """What the engine must be told of it, where the request has no bound of its own."""

    @property
    def nano(self) -> int:
        """Its cost in nano-dollars."""
        return self.price.cost(self.prompt, self.completion)

    @property
    def tokens(self) -> int:
        """Its tokens, prompt and answer."""
        return self.prompt + self.completion

    def least(self, tokens: int) -> tuple[int, int]:
        """Return the nano-dollars and tokens of the prompt and so many tokens of an answer."""
        some = min(tokens, self.completion)
        return self.price.cost(self.prompt, some), self.prompt + some

    def attempt(self, *, started: bool) -> Attempt:
        """Return the attempt as it is written down before the engine is asked."""
        return Attempt(self.model, self.upstream, self.price, self.prompt, 0, started=started)


Estimating = Callable[[ChatModel], Awaitable[Estimate]]


class MeteredCall:
    """Counts what an answer takes as it grows, keeps it inside what is reserved, and settles once.

    `begin` each attempt, tell its chunks to `progress` before they go on, `settle` at the end of the call.
    Without a reservation (nothing binds the call) it only counts.
    """

    def __init__(
        self,
        course: AttemptHistory,
        ledger: Ledger,
        reservation: Reservation | None = None,
        *,
        estimate: Estimating | None = None,
        exact: bool = False,
        stream: bool = False,
        block: int = 1,
        least: int = 1,
        share: QuotaShare | None = None,
    ) -> None:
        self.course = course
        self.reservation = reservation
        self.rows: list[Row] = []
        self._ledger = ledger
        self._estimate = estimate
        self._exact = exact and reservation is not None
        self._stream = stream
        self._block = block
        self._least = least
        self._share = share
        self._first = course.attempts[-1].model
        """The model whose attempt was written down with the reservation."""
        self._begun = False
        """Whether the engine of the last attempt may have been asked."""
        self._settled = False
        self._counted: set[str] = set()
        self._allowed = self._asked = 0
        self._seen = self._written = self._prompt = 0
        self._final: int | None = None
        self._by_choice: dict[int, int] = {}

    async def begin(self, model: ChatModel) -> Body:
        """Begin an attempt with a model, just before its engine is asked; what the one before took stays charged.

        Returns what the engine must be told beside the request.

        Raises:
            ModelFull: as much of this model is used, or under way, as may be; another may be begun.
            InsufficientQuota, LimitReached: what is reserved does not reach for it, and there is no more.
            CountersAway, ReservationLost: it cannot be held.
        """
        assert self._estimate is not None
        wanted = await self._estimate(model)
        await self.begin_as(wanted)
        return dict(wanted.bounds)

    async def begin_as(self, wanted: Estimate) -> None:
        """Begin an attempt that takes so much at most; see `begin`."""
        attempt = wanted.attempt(started=False)
        if self._begun:
            self._end_attempt(given=self._stream)
            self.course.attempts.append(attempt)
        else:
            self.course.attempts[-1] = attempt
        self._begun = False
        self._reset(0, 0)
        allowed = await self._held_for(wanted) if self.reservation else self._shared_for(wanted)
        attempt.started = self._begun = True
        self._reset(allowed, wanted.completion)

    async def progress(self, chunk: Chunk) -> None:
        """Count a chunk; return when it may go on to the caller.

        Raises:
            InsufficientQuota: it is behind what could be reserved.
            EngineOvershot: it is behind what was asked for.
            AnswerCut: the engine counts what cannot be counted.
            CountersAway, ReservationLost: it cannot be held.
        """
        pieces = _pieces(chunk)
        if pieces:
            self._final = None  # what the engine counted before was not all
        told = self._told(chunk)
        now = max(told, self._seen) if told is not None else self._seen + pieces
        if now > self._allowed and (pieces or _goes_on(chunk)):
            raise self._over()
        if self._exact and self._stream and pieces:
            await self._write_ahead(now)
        self._seen = now
        self._counted.add("chunk_usage" if told is not None else "chunks")

    async def settle(self, error: BaseException | None = None, record: CallRecord | None = None) -> None:
        """Charge what was taken and release the rest, once; what it took is told to the record.

        A call that went well closes its record in the same step, and one commit has both.

        Raises:
            Unavailable: the ledger cannot be written, or what was reserved is gone: the answer must not be given as
                whole. In the second case it is not settled yet.
        """
        if self._settled:
            return
        if error is None and self._exact:
            assert self.reservation is not None
            await self.reservation.check()  # an answer whose reservation is gone is given to nobody
        self._settled = True
        try:
            await self._pay(error, record)
        except Exception as failed:
            if error is None and self.reservation is not None:
                self._charge(failed)  # what nobody gets as whole is not owed as whole
            raise

    async def _pay(self, error: BaseException | None, record: CallRecord | None) -> None:
        pay = self._charge(error)
        if record:
            self._tell(record)
        await (record.close(pay=pay) if record and error is None else pay(""))

    def _charge(self, error: BaseException | None) -> Pay:
        """Say what is owed; return what pays it."""
        left = isinstance(error, LEFT)
        self._end_attempt(whole=error is None, given=self._stream or left or error is None, left=left)
        outcome = _outcome(error)
        if self.reservation is not None:
            self.rows = self.reservation.charge(outcome, self._by)
            return self.reservation.pay
        now = time.time() * 1000
        id = f"call_{secrets.token_hex(12)}"
        most = sum(attempt.cost for attempt in self.course.attempts)
        posted = self._share is None  # where limits bind it, the counters have yet to hear of it
        self.rows = settled(
            id,
            self.course,
            at_ms=now,
            most=most,
            most_tokens=self._share.tokens if self._share else None,
            outcome=outcome,
            counted_by=self._by,
            posted=posted,
        )
        if self._share:
            self._share.leave(sum(attempt.tokens for attempt in self.course.attempts))
        return partial(self._ledger.put, self.rows)

    def _tell(self, record: CallRecord) -> None:
        cost = sum(row.cost for row in self.rows)
        counted = {"ledger": self.rows[0].id, "cost_usd": to_usd(cost), "counted_by": self.rows[-1].counted_by}
        record.details |= counted
        for row in self.rows:
            if row.cost:
                record.cost(row.cost, row.model)

    async def _held_for(self, wanted: Estimate) -> int:
        """Hold an attempt, written down before its engine is asked; return the tokens that its answer may have."""
        assert self.reservation is not None
        before, attempt = self.course.attempts[:-1], self.course.attempts[-1]
        nano = sum(a.cost for a in before)
        tokens = sum(a.tokens for a in before)
        await self._reserve(wanted, nano, tokens)
        if self._exact and (self.reservation.step > 1 or before or wanted.model != self._first):
            attempt.started = True
            try:
                await self.reservation.advance()
            except BaseException:
                attempt.started = False
                raise
        affordable = wanted.price.completions_within(self.reservation.nano - nano, wanted.prompt)
        bounds = [wanted.completion, self.reservation.tokens - tokens - wanted.prompt]
        return min(b for b in (*bounds, affordable) if b is not None)

    def _shared_for(self, wanted: Estimate) -> int:
        if self._share:
            self._share.enter([of_model(wanted.model)])
        return wanted.completion

    async def _reserve(self, wanted: Estimate, spent_nano: int, spent_tokens: int) -> None:
        assert self.reservation is not None
        nano = spent_nano + wanted.nano - self.reservation.nano
        tokens = spent_tokens + wanted.tokens - self.reservation.tokens
        if (model := of_model(wanted.model)) in self.reservation.subjects:
            first = self.reservation.step == 1 and len(self.course.attempts) == 1
            if first or (nano <= 0 and tokens <= 0):
                return  # what was reserved at the beginning was reserved for this attempt too
        least_nano, least_tokens = wanted.least(self._least)
        least = (
            max(0, spent_nano + least_nano - self.reservation.nano),
            max(0, spent_tokens + least_tokens - self.reservation.tokens),
        )
        await self.reservation.reserve(max(0, nano), max(0, tokens), least if self._stream else None, model)

    async def _write_ahead(self, now: int) -> None:
        assert self.reservation is not None
        if now <= self._written:
            await self.reservation.check()
            return
        self._written = min(max(now, self._written + self._block), self._allowed)
        self.course.attempts[-1].completion_tokens = self._written
        await self.reservation.advance()

    def _told(self, chunk: Chunk) -> int | None:
        """Return the completion tokens that the engine counts so far, of all choices; None: the chunk does not say."""
        choices = chunk.get("choices") or ()
        if usage := chunk.get("usage"):
            self._prompt = _count(usage, "prompt_tokens") or self._prompt
            count = _count(usage, "completion_tokens")
            if not choices:
                self._final = count
                return count
        elif timings := chunk.get("timings"):
            count = _count(timings, "predicted_n")
            self._prompt = _count(timings, "prompt_n") + _count(timings, "cache_n") or self._prompt
        else:
            return None
        for choice in choices:
            self._by_choice[choice.get("index", 0)] = count
        return sum(self._by_choice.values())

    def _over(self) -> Exception:
        if self._allowed >= self._asked:
            return EngineOvershot(f"the engine wrote more than the {self._asked} tokens it was asked for")
        message = f"the answer is cut after {self._seen} tokens: the budget does not reach for more"
        return InsufficientQuota(message, code=CODE)

    def _end_attempt(self, *, given: bool, whole: bool = False, left: bool = False) -> None:
        """Say what the attempt took: by the engine's last word where the answer is whole, else at least what came."""
        attempt = self.course.attempts[-1]
        final = self._final if given else None
        attempt.completion_tokens = final if whole and final is not None else max(final or 0, self._seen * given)
        attempt.prompt_tokens = self._prompt or attempt.prompt_tokens
        if not self._begun or not (attempt.completion_tokens or final is not None or left):
            attempt.started = False  # it gave nobody anything: nothing to charge

    @property
    def _by(self) -> str:
        if self._final is not None:
            return "engine"
        return "chunk_usage" if "chunk_usage" in self._counted else "chunks"

    def _reset(self, allowed: int, asked: int) -> None:
        self._allowed = allowed
        self._asked = asked
        self._seen = 0
        self._written = 0
        self._prompt = 0
        self._final = None
        self._by_choice = {}


def _pieces(chunk: Chunk) -> int:
    """Return how many choices get something in a chunk: each piece has at least one token."""
    return sum(map(has_words, chunk.get("choices") or ()))


def _goes_on(chunk: Chunk) -> bool:
    """Tell whether an answer goes on though a chunk shows nothing of it, as while an engine reads a tool call."""
    return any(not choice.get("finish_reason") for choice in chunk.get("choices") or ())


def _count(counts: Any, name: str) -> int:
    """Return a number of tokens as an engine tells it; 0: it does not.

    Raises:
        AnswerCut: it is no number of tokens.
    """
    found = counts.get(name) if isinstance(counts, dict) else counts
    if found is None:
        return 0
    if type(found) is not int or not 0 <= found < MOST_COUNTED:
        raise ResponseTruncated(
            f"the engine sent what is no part of an answer: it says {name} is {str(found)[:40]}: try again"
        )
    return found


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, LEFT):
        return "client_gone"
    if isinstance(error, InsufficientQuota):
        return "cut"
    return "refused" if isinstance(error, REFUSED) else "failed"
