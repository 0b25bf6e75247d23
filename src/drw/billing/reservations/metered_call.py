"""Metered call: reserves the maximum cost before the first attempt, counts usage, and settles once."""

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
from drw.billing.ledger.ledger import InCommit
from drw.billing.ledger.rows import settlement_rows
from drw.billing.reservations.client import ReservationClient
from drw.billing.reservations.errors import INSUFFICIENT_QUOTA, EngineOvershot, InsufficientQuota
from drw.billing.reservations.local_quota import QuotaShare
from drw.billing.reservations.reservation import Reservation, Settlement
from drw.billing.subjects import model_subject
from drw.billing.usage import UsageUpdate
from drw.kernel.errors import ClientDisconnected, Forbidden, InvalidRequest, NotFound, RateLimited

DISCONNECTED = (ClientDisconnected, asyncio.CancelledError, GeneratorExit)
REJECTED = (InvalidRequest, NotFound, Forbidden, RateLimited)

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Maximum cost and tokens of an attempt."""

    model: str
    upstream: str
    price: Price
    prompt: int
    completion: int
    bounds: Mapping[str, int] = field(default_factory=dict)
    """Parameters that limit the engine, if the request has no limit."""

    @property
    def nano(self) -> int:
        """Maximum cost in nano-dollars."""
        return self.price.cost(self.prompt, self.completion)

    @property
    def tokens(self) -> int:
        """Maximum tokens, prompt and completion."""
        return self.prompt + self.completion

    def minimum(self, tokens: int) -> tuple[int, int]:
        """Return the nano-dollars and tokens of the prompt and at most so many completion tokens."""
        completion_tokens = min(tokens, self.completion)
        return self.price.cost(self.prompt, completion_tokens), self.prompt + completion_tokens

    def attempt(self, *, started: bool) -> Attempt:
        """Return the attempt that is written ahead, before the engine is called."""
        return Attempt(self.model, self.upstream, self.price, self.prompt, 0, started=started)


class AuditRecord(Protocol):
    """Audit record of a call, as required for its settlement."""

    in_commit: InCommit | None
    """Further writes of the commit of a successful call."""

    def charge(self, settlement: Settlement) -> None:
        """Add the cost of the call to the record."""

    def closing(self) -> AbstractContextManager[str]:
        """Close the record of a successful call; yields the line that the block must write."""


class MeteredCall(Generic[M]):
    """Counts the usage of an answer, keeps it within the reservation, and settles once.

    Call `begin` before each attempt, `progress` with the usage of each chunk before it is delivered, and `finalize`
    at the end of the call. Without a reservation (no budget or limit applies) usage is only counted. `estimate`
    returns the maximum of an attempt at a model.
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
        """Settlement of the call, after its end."""
        self._client = client
        self._estimate = estimate
        self._exact = exact and reservation is not None
        self._stream = stream
        self._block = client.settings.block_tokens
        self._min_tokens = client.settings.min_tokens
        self._share = share
        self._first_model = history.attempts[-1].model
        """Model of the attempt that was written ahead together with the reservation."""
        self._engine_called = False
        """Whether the engine of the last attempt may have been called."""
        self._counted_by_engine = False
        """Whether the engine reported counts in any chunk of any attempt."""
        self._allowed = self._requested = 0
        self._output_tokens = self._written_ahead = self._prompt_tokens = 0
        self._final_tokens: int | None = None
        self._tokens_by_output: dict[int, int] = {}
        self._details: dict[str, int] = {}

    async def begin(self, model: M) -> Mapping[str, int]:
        """Begin an attempt at a model, just before its engine is called. The usage of earlier attempts stays charged.

        Returns the parameters that limit the engine, to add to the request.

        Raises:
            ModelAtCapacity: a budget or limit of this model is exhausted; another model may be available.
            InsufficientQuota, LimitReached: the reservation does not suffice and cannot be extended.
            CountersUnavailable, ReservationLost: the reservation cannot be held.
        """
        assert self._estimate is not None
        estimate = await self._estimate(model)
        await self.begin_within(estimate)
        return estimate.bounds

    async def begin_within(self, estimate: Estimate) -> None:
        """Begin an attempt with this estimate; see `begin`."""
        attempt = estimate.attempt(started=False)
        if self._engine_called:
            self._end_attempt(delivered=self._stream)
            self.history.attempts.append(attempt)
        else:
            self.history.attempts[-1] = attempt
        self._engine_called = False
        self._reset(0, 0)
        if self.reservation is not None:
            allowed = await self._reserve(self.reservation, estimate)
        else:
            allowed = estimate.completion
            if self._share:
                self._share.enter([model_subject(estimate.model)])
        attempt.started = self._engine_called = True
        self._reset(allowed, estimate.completion)

    async def progress(self, update: UsageUpdate) -> None:
        """Count one chunk of an answer; return when it may be delivered.

        Raises:
            InsufficientQuota: the usage exceeds the reservation.
            EngineOvershot: the usage exceeds the request.
            CountersUnavailable, ReservationLost: the reservation cannot be held.
        """
        deltas = update.deltas
        if deltas:
            self._final_tokens = None  # the earlier final count did not include this chunk
        if update.output_tokens is None:
            output_tokens = self._output_tokens + deltas
        else:
            output_tokens = max(self._count(update, update.output_tokens), self._output_tokens)
            self._counted_by_engine = True
        if output_tokens > self._allowed and (deltas or update.continues):
            raise self._limit_error()
        if deltas and self._exact and self._stream:
            await self._write_ahead(output_tokens)
        self._output_tokens = output_tokens

    async def finalize(self, error: BaseException | None = None, record: AuditRecord | None = None) -> Settlement:
        """Charge the usage and release the remainder, once; return the settlement.

        For a successful call, the audit record is closed in the same commit.

        Raises:
            Unavailable: the ledger cannot be written, or the reservation is lost: the answer must not be delivered
                as complete. In the second case the call is not settled yet.
        """
        if self.settlement is not None:
            return self.settlement
        if error is None and self._exact and self.reservation is not None:
            await self._client.check(self.reservation)  # an answer without its reservation must not be delivered
        settlement = self._settle(error)
        if record is not None:
            record.charge(settlement)
        try:
            if record is None or error is not None:
                await self._client.commit(settlement)
            else:
                with record.closing() as audit_line:
                    await self._client.commit(settlement, audit_line, record.in_commit)
        except Exception as failed:
            if error is None and self.reservation is not None:
                self._settle(failed)  # an answer that is not delivered must not be charged as complete
            raise
        return settlement

    def _settle(self, error: BaseException | None) -> Settlement:
        """Prepare the settlement of the call."""
        disconnected = isinstance(error, DISCONNECTED)
        self._end_attempt(
            complete=error is None, delivered=self._stream or disconnected or error is None, disconnected=disconnected
        )
        if self.reservation is not None:
            self.settlement = self._client.prepare_settlement(
                self.reservation, outcome(error), self._counted_by, self._details
            )
            return self.settlement
        rows = settlement_rows(
            f"call_{secrets.token_hex(12)}",
            self.history,
            at_ms=time.time() * 1000,
            max_cost=sum(attempt.cost for attempt in self.history.attempts),
            max_tokens=self._share.tokens if self._share else None,
            outcome=outcome(error),
            counted_by=self._counted_by,
            posted=self._share is None,  # with a local quota, the counters do not have the usage yet
        )
        if self._share:
            self._share.leave(sum(attempt.tokens for attempt in self.history.attempts))
        self.settlement = Settlement(rows, details=self._details)
        return self.settlement

    async def _reserve(self, reservation: Reservation, estimate: Estimate) -> int:
        """Reserve an attempt, and write it ahead; return the maximum tokens of its answer."""
        earlier_attempts, attempt = self.history.attempts[:-1], self.history.attempts[-1]
        spent_nano = sum(earlier.cost for earlier in earlier_attempts)
        spent_tokens = sum(earlier.tokens for earlier in earlier_attempts)
        nano = spent_nano + estimate.nano - reservation.nano
        tokens = spent_tokens + estimate.tokens - reservation.tokens
        model = model_subject(estimate.model)
        includes_model = model in reservation.subjects
        # The initial reservation covers the first attempt.
        if not includes_model or not ((reservation.step == 1 and not earlier_attempts) or (nano <= 0 and tokens <= 0)):
            min_nano, min_tokens = estimate.minimum(self._min_tokens)
            minimum = (
                max(0, spent_nano + min_nano - reservation.nano),
                max(0, spent_tokens + min_tokens - reservation.tokens),
            )
            await self._client.reserve(
                reservation, max(0, nano), max(0, tokens), minimum if self._stream else None, model
            )
        if self._exact and (reservation.step > 1 or earlier_attempts or estimate.model != self._first_model):
            attempt.started = True
            try:
                await self._client.advance(reservation)
            except BaseException:
                attempt.started = False
                raise
        affordable = estimate.price.affordable_completion_tokens(reservation.nano - spent_nano, estimate.prompt)
        bounds = [estimate.completion, reservation.tokens - spent_tokens - estimate.prompt]
        return min(bound for bound in (*bounds, affordable) if bound is not None)

    async def _write_ahead(self, output_tokens: int) -> None:
        assert self.reservation is not None
        if output_tokens <= self._written_ahead:
            await self._client.check(self.reservation)
            return
        self._written_ahead = min(max(output_tokens, self._written_ahead + self._block), self._allowed)
        self.history.attempts[-1].completion_tokens = self._written_ahead
        await self._client.advance(self.reservation)

    def _count(self, update: UsageUpdate, output_tokens: int) -> int:
        """Return the output tokens of all outputs so far, as counted by the engine."""
        self._prompt_tokens = update.input_tokens or self._prompt_tokens
        if update.final:
            self._final_tokens = output_tokens
            for name in ("cached_tokens", "reasoning_tokens", "characters"):
                if number := getattr(update, name):
                    self._details[name] = number
            return output_tokens
        for index in update.outputs:
            self._tokens_by_output[index] = output_tokens
        return sum(self._tokens_by_output.values())

    def _limit_error(self) -> Exception:
        if self._allowed >= self._requested:
            return EngineOvershot(f"the engine wrote more than the {self._requested} tokens that were requested")
        message = f"the answer is cut after {self._output_tokens} tokens: the budget does not suffice for more"
        return InsufficientQuota(message, code=INSUFFICIENT_QUOTA)

    def _end_attempt(self, *, delivered: bool, complete: bool = False, disconnected: bool = False) -> None:
        """Set the usage of the attempt: the engine's final count if complete, else at least the delivered tokens."""
        attempt = self.history.attempts[-1]
        final = self._final_tokens if delivered else None
        attempt.completion_tokens = (
            final if complete and final is not None else max(final or 0, self._output_tokens * delivered)
        )
        attempt.prompt_tokens = self._prompt_tokens or attempt.prompt_tokens
        if not self._engine_called or not (attempt.completion_tokens or final is not None or disconnected):
            attempt.started = False  # nothing was delivered: no charge

    @property
    def _counted_by(self) -> str:
        if self._final_tokens is not None:
            return "engine"
        return "chunk_usage" if self._counted_by_engine else "chunks"

    def _reset(self, allowed: int, requested: int) -> None:
        """Start counting an attempt whose answer may have `allowed` of the `requested` tokens."""
        self._allowed = allowed
        self._requested = requested
        self._output_tokens = 0
        self._written_ahead = 0
        self._prompt_tokens = 0
        self._final_tokens = None
        self._tokens_by_output = {}
        self._details = {}


def outcome(error: BaseException | None) -> str:
    """Return the outcome of a call for the ledger."""
    if error is None:
        return "ok"
    if isinstance(error, DISCONNECTED):
        return "client_gone"
    if isinstance(error, InsufficientQuota):
        return "cut"
    return "refused" if isinstance(error, REJECTED) else "failed"
