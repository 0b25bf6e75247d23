"""One metered call: what it may cost is reserved from before its first attempt to after its last."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from drw.billing.amounts import Price
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.rows import settlement_rows
from drw.billing.reservations.client import ReservationClient
from drw.billing.reservations.errors import CODE, EngineOvershot, InsufficientQuota
from drw.billing.reservations.local_quota import QuotaShare
from drw.billing.reservations.reservation import Reservation, Settlement
from drw.billing.subjects import of_model
from drw.billing.usage import UsageUpdate
from drw.kernel.errors import ClientGone, Forbidden, InvalidRequest, NotFound, RateLimited

LEFT = (ClientGone, asyncio.CancelledError, GeneratorExit)
REFUSED = (InvalidRequest, NotFound, Forbidden, RateLimited)

M = TypeVar("M")


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

    def minimum(self, tokens: int) -> tuple[int, int]:
        """Return the nano-dollars and tokens of the prompt and so many tokens of an answer."""
        some = min(tokens, self.completion)
        return self.price.cost(self.prompt, some), self.prompt + some

    def attempt(self, *, started: bool) -> Attempt:
        """Return the attempt as it is written ahead, before the engine is asked."""
        return Attempt(self.model, self.upstream, self.price, self.prompt, 0, started=started)


class AuditRecord(Protocol):
    """The audit record of a call, as settlement needs it."""

    def charge(self, settlement: Settlement) -> None:
        """Note what the call costs."""

    def closing(self) -> AbstractContextManager[str]:
        """Close the record of a call that went well; give its line for the block to write."""


class MeteredCall(Generic[M]):
    """Counts what an answer uses as it grows, keeps it within what is reserved, and settles once.

    `begin` each attempt, report its usage by `progress` before it is passed on, `finalize` at the end of the call.
    Without a reservation (no budget or limit binds the call) it only counts. `estimate` says how much an attempt at
    a model can take.
    """

    def __init__(
        self,
        client: ReservationClient,
        history: AttemptHistory,
        reservation: Reservation | None = None,
        *,
        estimate: Callable[[M], Awaitable[Estimate]] | None = None,
        exact: bool = False,
        stream: bool = False,
        share: QuotaShare | None = None,
    ) -> None:
        self.history = history
        self.reservation = reservation
        self.settlement: Settlement | None = None
        """What the call is charged, once it is over."""
        self._client = client
        self._estimate = estimate
        self._exact = exact and reservation is not None
        self._stream = stream
        self._block = client.settings.block_tokens
        self._min_tokens = client.settings.min_tokens
        self._share = share
        self._first = history.attempts[-1].model
        """The model whose attempt was written ahead with the reservation."""
        self._begun = False
        """Whether the engine of the last attempt may have been asked."""
        self._by_engine = False
        """Whether the engine counted in any chunk of any attempt."""
        self._allowed = self._requested = 0
        self._seen = self._written = self._prompt = 0
        self._final: int | None = None
        self._by_output: dict[int, int] = {}
        self._details: dict[str, int] = {}

    async def begin(self, model: M) -> Mapping[str, int]:
        """Begin an attempt at a model, just before its engine is asked. What earlier attempts used stays charged.

        Returns the bounds that the engine must be told beside the request.

        Raises:
            ModelAtCapacity: a budget or limit of this model is exhausted; an attempt at another model may begin.
            InsufficientQuota, LimitReached: the reservation does not suffice, and there is no more.
            CountersUnavailable, ReservationLost: it cannot be held.
        """
        assert self._estimate is not None
        estimate = await self._estimate(model)
        await self.begin_within(estimate)
        return estimate.bounds

    async def begin_within(self, estimate: Estimate) -> None:
        """Begin an attempt that takes no more than the estimate; see `begin`."""
        attempt = estimate.attempt(started=False)
        if self._begun:
            self._end_attempt(given=self._stream)
            self.history.attempts.append(attempt)
        else:
            self.history.attempts[-1] = attempt
        self._begun = False
        self._reset(0, 0)
        if self.reservation is not None:
            allowed = await self._reserve(self.reservation, estimate)
        else:
            allowed = estimate.completion
            if self._share:
                self._share.enter([of_model(estimate.model)])
        attempt.started = self._begun = True
        self._reset(allowed, estimate.completion)

    async def progress(self, update: UsageUpdate) -> None:
        """Count one step of an answer; return when it may be passed on to the caller.

        Raises:
            InsufficientQuota: it is beyond what could be reserved.
            EngineOvershot: it is beyond what was requested.
            CountersUnavailable, ReservationLost: it cannot be held.
        """
        pieces = update.pieces
        if pieces:
            self._final = None  # what the engine counted before was not all
        if update.output_tokens is None:
            now = self._seen + pieces
        else:
            now = max(self._count(update, update.output_tokens), self._seen)
            self._by_engine = True
        if now > self._allowed and (pieces or update.continues):
            raise self._over()
        if pieces and self._exact and self._stream:
            await self._write_ahead(now)
        self._seen = now

    async def finalize(self, error: BaseException | None = None, record: AuditRecord | None = None) -> Settlement:
        """Charge what was used and release the rest, once; return what is charged.

        A call that went well closes its record in the same commit.

        Raises:
            Unavailable: the ledger cannot be written, or the reservation is lost: the answer must not be given as
                whole. In the second case it is not settled yet.
        """
        if self.settlement is not None:
            return self.settlement
        if error is None and self._exact and self.reservation is not None:
            await self._client.check(self.reservation)  # an answer whose reservation is lost is given to nobody
        settlement = self._settle(error)
        if record is not None:
            record.charge(settlement)
        try:
            if record is None or error is not None:
                await self._client.commit(settlement)
            else:
                with record.closing() as audit_line:
                    await self._client.commit(settlement, audit_line)
        except Exception as failed:
            if error is None and self.reservation is not None:
                self._settle(failed)  # what nobody gets as whole is not owed as whole
            raise
        return settlement

    def _settle(self, error: BaseException | None) -> Settlement:
        """Say what is owed."""
        left = isinstance(error, LEFT)
        self._end_attempt(whole=error is None, given=self._stream or left or error is None, left=left)
        if self.reservation is not None:
            self.settlement = self._client.owe(self.reservation, outcome(error), self._counted_by, self._details)
            return self.settlement
        rows = settlement_rows(
            f"call_{secrets.token_hex(12)}",
            self.history,
            at_ms=time.time() * 1000,
            max_cost=sum(attempt.cost for attempt in self.history.attempts),
            max_tokens=self._share.tokens if self._share else None,
            outcome=outcome(error),
            counted_by=self._counted_by,
            posted=self._share is None,  # where limits bind it, the counters do not know of it yet
        )
        if self._share:
            self._share.leave(sum(attempt.tokens for attempt in self.history.attempts))
        self.settlement = Settlement(rows, details=self._details)
        return self.settlement

    async def _reserve(self, reservation: Reservation, estimate: Estimate) -> int:
        """Reserve an attempt, written ahead before its engine is asked; return the tokens that its answer may have."""
        before, attempt = self.history.attempts[:-1], self.history.attempts[-1]
        spent_nano = sum(earlier.cost for earlier in before)
        spent_tokens = sum(earlier.tokens for earlier in before)
        nano = spent_nano + estimate.nano - reservation.nano
        tokens = spent_tokens + estimate.tokens - reservation.tokens
        model = of_model(estimate.model)
        joined = model in reservation.subjects
        # What was reserved at the beginning was reserved for the first attempt too.
        if not joined or not ((reservation.step == 1 and not before) or (nano <= 0 and tokens <= 0)):
            min_nano, min_tokens = estimate.minimum(self._min_tokens)
            minimum = (
                max(0, spent_nano + min_nano - reservation.nano),
                max(0, spent_tokens + min_tokens - reservation.tokens),
            )
            await self._client.reserve(
                reservation, max(0, nano), max(0, tokens), minimum if self._stream else None, model
            )
        if self._exact and (reservation.step > 1 or before or estimate.model != self._first):
            attempt.started = True
            try:
                await self._client.advance(reservation)
            except BaseException:
                attempt.started = False
                raise
        affordable = estimate.price.completions_within(reservation.nano - spent_nano, estimate.prompt)
        bounds = [estimate.completion, reservation.tokens - spent_tokens - estimate.prompt]
        return min(bound for bound in (*bounds, affordable) if bound is not None)

    async def _write_ahead(self, now: int) -> None:
        assert self.reservation is not None
        if now <= self._written:
            await self._client.check(self.reservation)
            return
        self._written = min(max(now, self._written + self._block), self._allowed)
        self.history.attempts[-1].completion_tokens = self._written
        await self._client.advance(self.reservation)

    def _count(self, update: UsageUpdate, output_tokens: int) -> int:
        """Return the output tokens that the engine counts so far, of all outputs."""
        self._prompt = update.input_tokens or self._prompt
        if update.final:
            self._final = output_tokens
            for name in ("cached_tokens", "reasoning_tokens", "characters"):
                if number := getattr(update, name):
                    self._details[name] = number
            return output_tokens
        for index in update.outputs:
            self._by_output[index] = output_tokens
        return sum(self._by_output.values())

    def _over(self) -> Exception:
        if self._allowed >= self._requested:
            return EngineOvershot(f"the engine wrote more than the {self._requested} tokens it was asked for")
        message = f"the answer is cut after {self._seen} tokens: the budget does not reach for more"
        return InsufficientQuota(message, code=CODE)

    def _end_attempt(self, *, given: bool, whole: bool = False, left: bool = False) -> None:
        """Set what the attempt used: the engine's last count where the answer is whole, else at least what came."""
        attempt = self.history.attempts[-1]
        final = self._final if given else None
        attempt.completion_tokens = final if whole and final is not None else max(final or 0, self._seen * given)
        attempt.prompt_tokens = self._prompt or attempt.prompt_tokens
        if not self._begun or not (attempt.completion_tokens or final is not None or left):
            attempt.started = False  # it gave nobody anything: nothing to charge

    @property
    def _counted_by(self) -> str:
        if self._final is not None:
            return "engine"
        return "chunk_usage" if self._by_engine else "chunks"

    def _reset(self, allowed: int, requested: int) -> None:
        """Count an attempt from its beginning; its answer may have `allowed` of the `requested` tokens."""
        self._allowed = allowed
        self._requested = requested
        self._seen = 0
        self._written = 0
        self._prompt = 0
        self._final = None
        self._by_output = {}
        self._details = {}


def outcome(error: BaseException | None) -> str:
    """Return how the ledger names the end of a call with this error."""
    if error is None:
        return "ok"
    if isinstance(error, LEFT):
        return "client_gone"
    if isinstance(error, InsufficientQuota):
        return "cut"
    return "refused" if isinstance(error, REFUSED) else "failed"
