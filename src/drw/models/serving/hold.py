"""One metered call: what it may cost is held from before its first attempt to after its last."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from drw.kernel.errors import Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.metering.amounts import Price, to_usd
from drw.kernel.metering.attempts import Attempt, Course
from drw.kernel.metering.ledger import Ledger, Row, settled
from drw.models.serving.deltas import words
from drw.models.serving.meter import Reservation
from drw.models.serving.plans import ChatModel
from drw.models.serving.ports import Chunk
from drw.models.serving.quota import EngineOvershot, InsufficientQuota, ReservationLost
from drw.models.serving.record import ClientGone, Record

LEFT = (ClientGone, asyncio.CancelledError, GeneratorExit)
REFUSED = (InvalidRequest, NotFound, Forbidden, RateLimited)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that an attempt can take."""

    model: str
    upstream: str
    price: Price
    prompt: int
    completion: int

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

    def attempt(self) -> Attempt:
        """Return the attempt as it is written down before the engine is asked."""
        return Attempt(self.model, self.upstream, self.price, self.prompt, 0, started=True)


Estimating = Callable[[ChatModel], Awaitable[Estimate]]


class Hold:
    """Counts what an answer takes as it grows, keeps it inside what is reserved, and settles once.

    `begin` each attempt, tell its chunks to `progress` before they go on, `settle` at the end of the call.
    Without a reservation (nothing binds the call) it only counts.
    """

    def __init__(
        self,
        course: Course,
        ledger: Ledger,
        reservation: Reservation | None = None,
        *,
        estimate: Estimating | None = None,
        exact: bool = False,
        stream: bool = False,
        block: int = 1,
        least: int = 1,
        finish: Callable[[int], None] | None = None,
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
        self._finish = finish
        self._begun = False
        self._settled = False
        self._counted: set[str] = set()
        self._allowed = self._asked = 0
        self._seen = self._written = self._prompt = 0
        self._final: int | None = None
        self._by_choice: dict[int, int] = {}

    async def begin(self, model: ChatModel) -> None:
        """Begin an attempt with a model, just before its engine is asked; what the one before took stays charged.

        Raises:
            InsufficientQuota, LimitReached: what is reserved does not reach for it, and there is no more.
            CountersAway, ReservationLost: it cannot be held.
        """
        assert self._estimate is not None
        await self.begin_as(await self._estimate(model))

    async def begin_as(self, wanted: Estimate) -> None:
        """Begin an attempt that takes so much at most; see `begin`."""
        first = not self._begun
        written = self.course.attempts[-1].model
        if not first:
            self._end_attempt(None)
            self.course.attempts.append(wanted.attempt())
        self._begun = True
        if self.reservation is None:
            self.course.attempts[-1] = wanted.attempt()
            self._reset(wanted.completion, wanted.completion)
            return
        spent = [(a.cost, a.prompt_tokens + a.completion_tokens) for a in self.course.attempts[:-1] if a.started]
        nano, tokens = sum(cost for cost, _ in spent), sum(used for _, used in spent)
        await self._reserve(wanted, nano, tokens)
        self.course.attempts[-1] = wanted.attempt()
        if self._exact and not (first and written == wanted.model):
            await self.reservation.advance()
        affordable = wanted.price.completions_within(self.reservation.nano - nano, wanted.prompt)
        bounds = [wanted.completion, self.reservation.tokens - tokens - wanted.prompt]
        self._reset(min(b for b in (*bounds, affordable) if b is not None), wanted.completion)

    async def progress(self, chunk: Chunk) -> None:
        """Count a chunk; return when it may go on to the caller.

        Raises:
            InsufficientQuota: it is behind what could be reserved.
            EngineOvershot: it is behind what was asked for.
            CountersAway, ReservationLost: it cannot be held.
        """
        pieces = _pieces(chunk)
        told = self._told(chunk)
        now = max(told, self._seen) if told is not None else self._seen + pieces
        if pieces and now > self._allowed:
            raise self._over()
        if self._exact and self._stream and pieces:
            await self._write_ahead(now)
        self._seen = now
        self._counted.add("chunk_usage" if told is not None else "chunks")

    async def settle(self, error: BaseException | None = None, record: Record | None = None) -> None:
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
        self._end_attempt(error)
        outcome = _outcome(error)
        if self.reservation is not None:
            self.rows = self.reservation.charge(outcome, self._by)
            pay = self.reservation.pay
        else:
            now = time.time() * 1000
            id = f"call_{secrets.token_hex(12)}"
            most = sum(attempt.cost for attempt in self.course.attempts)
            posted = self._finish is None  # where limits bind it, the counters have yet to hear of it
            self.rows = settled(
                id, self.course, at_ms=now, most=most, outcome=outcome, counted_by=self._by, posted=posted
            )
            if self._finish:
                self._finish(sum(row.prompt_tokens + row.completion_tokens for row in self.rows))
            pay = partial(self._ledger.put, self.rows)
        if record:
            self._tell(record)
        await (record.close(pay=pay) if record and error is None else pay())

    def _tell(self, record: Record) -> None:
        cost = sum(row.cost for row in self.rows)
        counted = {"ledger": self.rows[0].id, "cost_usd": to_usd(cost), "counted_by": self.rows[-1].counted_by}
        record.details |= counted
        for row in self.rows:
            if row.cost:
                record.cost(row.cost, row.model)

    async def _reserve(self, wanted: Estimate, spent_nano: int, spent_tokens: int) -> None:
        assert self.reservation is not None
        nano = spent_nano + wanted.nano - self.reservation.nano
        tokens = spent_tokens + wanted.tokens - self.reservation.tokens
        if self.reservation.step and len(self.course.attempts) == 1 or (nano <= 0 and tokens <= 0):
            return  # what was reserved at the beginning was reserved for this attempt too
        least_nano, least_tokens = wanted.least(self._least)
        least = (
            max(0, spent_nano + least_nano - self.reservation.nano),
            max(0, spent_tokens + least_tokens - self.reservation.tokens),
        )
        await self.reservation.reserve(max(0, nano), max(0, tokens), least if self._stream else None)

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
            self._prompt = usage.get("prompt_tokens") or self._prompt
            count = usage.get("completion_tokens") or 0
            if not choices:
                self._final = int(count)
                return self._final
        elif timings := chunk.get("timings"):
            count = timings.get("predicted_n") or 0
            prompt = (timings.get("prompt_n") or 0) + (timings.get("cache_n") or 0)
            self._prompt = prompt or self._prompt
        else:
            return None
        for choice in choices:
            self._by_choice[choice.get("index", 0)] = int(count)
        return sum(self._by_choice.values())

    def _over(self) -> Exception:
        if self._allowed >= self._asked:
            return EngineOvershot(f"the engine wrote more than the {self._asked} tokens it was asked for")
        message = f"the answer is cut after {self._seen} tokens: the budget does not reach for more"
        return InsufficientQuota(message, code="insufficient_quota")

    def _end_attempt(self, error: BaseException | None) -> None:
        attempt = self.course.attempts[-1]
        attempt.completion_tokens = self._seen if self._final is None else self._final
        attempt.prompt_tokens = self._prompt or attempt.prompt_tokens
        if isinstance(error, ReservationLost) and not self._stream:
            attempt.completion_tokens, self._final = 0, None  # nobody got any of it
        left = isinstance(error, LEFT)
        if not self._begun or not (attempt.completion_tokens or self._final is not None or left):
            attempt.started = False  # it died before it said anything: nothing to charge

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
    return sum(bool(words(choice)) for choice in chunk.get("choices") or ())


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, LEFT):
        return "client_gone"
    if isinstance(error, InsufficientQuota):
        return "cut"
    return "refused" if isinstance(error, REFUSED) else "failed"
