"""Holds every call to its budgets and limits: reserved before its first attempt, settled on every way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Policy, WatchPolicyRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.counters.client import Counters, CountersUnavailable, Window
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.pricing.policy import CallPricing, CurrentPricing
from drw.billing.reservations.client import ReservationClient
from drw.billing.reservations.errors import ModelAtCapacity
from drw.billing.reservations.lease_file import LeaseFile
from drw.billing.reservations.local_quota import LocalQuota, QuotaShare
from drw.billing.reservations.metered_call import Estimate, MeteredCall
from drw.billing.reservations.reservation import Reservation
from drw.billing.settings import MeteringSettings
from drw.billing.subjects import Subject, caller_subjects, model_subject
from drw.kernel.cached_watch import CachedWatch
from drw.kernel.errors import Unavailable
from drw.kernel.observability.overhead import waiting
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.models.serving.metering.estimates import estimate, free, text_bound
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.ports import Chunk
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, check_prompt

PLATFORM = Principal("", "", "platform")
"""Whom calls belong to that no key began."""

Headers = list[tuple[bytes, bytes]]
Call = MeteredCall[ChatModel]
Run = Callable[[Call], AsyncGenerator[Chunk, None]]


class BudgetGate:
    """Reserves for each call, meters it and settles it."""

    def __init__(self, pricing: CurrentPricing, reservations: ReservationClient) -> None:
        self._pricing = pricing
        self._reservations = reservations
        self._quota = LocalQuota(reservations.settings.processes)

    async def metered(
        self, request: ModelRequest, record: CallRecord, run: Run, headers: Headers | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of `run`, which reports its attempts to the metered call that it is given.

        Ends only when all is settled and the record of the call is closed. Raises what `run` raises, and:
            ContextLengthExceeded: no model reads so long a prompt.
            InsufficientQuota, LimitReached, ModelAtCapacity: the call does not fit.
            CountersUnavailable: whether it fits cannot be known now.
            Unavailable: the ledger cannot be written.
        """
        check_prompt(request)
        call = await self.reserve(request)
        if headers is not None and call.reservation and call.reservation.window:
            headers += window_headers(call.reservation.window)
        chunks = run(call)
        try:
            async for chunk in chunks:
                yield chunk
            await call.finalize(record=record)
        except BaseException as error:
            await chunks.aclose()
            with suppress(Unavailable):  # the reservation client goes on trying
                await call.finalize(error, record)
            raise

    @asynccontextmanager
    async def embedding(
        self, model: str, inputs: Sequence[str | Sequence[int]], record: CallRecord
    ) -> AsyncIterator[Call]:
        """Meter an embedding request for the block.

        Report its usage by `MeteredCall.progress`, and its outcome to the record.

        Raises and ends as `metered` does.
        """
        history, caller = _began("embedding", model, model)
        policy = self._pricing.current()
        price = policy.price(model, model, datetime.now(UTC))
        within = Estimate(model, model, price, sum(map(text_bound, inputs)), 0)
        pricing = policy.for_call((*caller, model_subject(model)), [price])
        call: Call
        if pricing.unlimited:
            call = MeteredCall(self._reservations, history)
        else:
            call = await self._reserved(history, caller, pricing, [within])
        try:
            await call.begin_within(within)
            yield call
            await call.finalize(record=record)
        except BaseException as error:
            with suppress(Unavailable):
                await call.finalize(error, record)
            raise

    async def reserve(self, request: ModelRequest) -> Call:
        """Return the metered call of a request; see `metered` for what is raised."""
        first = request.models[0]
        history, caller = _began("managed", first.id, first.upstream_model)
        policy, at = self._pricing.current(), datetime.now(UTC)
        prices = {model.id: policy.price(model.id, model.upstream_model, at) for model in request.models}
        subjects = (*caller, *(model_subject(model.id) for model in request.models))
        pricing = policy.for_call(subjects, list(prices.values()))
        if pricing.unlimited:
            return MeteredCall(self._reservations, history, estimate=free, stream=request.live)
        estimates: dict[str, Estimate] = {}

        async def estimated(model: ChatModel) -> Estimate:
            if model.id not in estimates:
                price = prices[model.id]
                estimates[model.id] = await estimate(model, request, price, self._reservations.settings)
            return estimates[model.id]

        with waiting("upstream"):
            if len(request.models) > 1:
                estimated_all = await asyncio.gather(*(estimated(model) for model in request.models))
            else:
                estimated_all = [await estimated(first)]
        return await self._reserved(history, caller, pricing, estimated_all, estimated, stream=request.live)

    async def _reserved(
        self,
        history: AttemptHistory,
        caller: Sequence[Subject],
        pricing: CallPricing,
        estimates: Sequence[Estimate],
        estimated: Callable[[ChatModel], Awaitable[Estimate]] | None = None,
        *,
        stream: bool = False,
    ) -> Call:
        """Reserve for the caller and the first model that has room; others join when they are asked."""
        nano = max(limit.nano for limit in estimates)
        tokens = max(limit.tokens for limit in estimates)
        reservation = Reservation(history, caller)
        full: ModelAtCapacity | None = None
        for limit in estimates:
            history.attempts = [limit.attempt(started=True)]
            minimum = limit.minimum(self._reservations.settings.min_tokens) if stream else None
            try:
                share = await self._take(reservation, pricing, nano, tokens, minimum, model_subject(limit.model))
            except ModelAtCapacity as error:
                full = full or error
                continue
            return MeteredCall(
                self._reservations,
                history,
                None if share else reservation,
                estimate=estimated,
                exact=pricing.exact,
                stream=stream,
                share=share,
            )
        assert full is not None
        raise full

    async def _take(
        self,
        reservation: Reservation,
        pricing: CallPricing,
        nano: int,
        tokens: int,
        minimum: tuple[int, int] | None,
        model: Subject,
    ) -> QuotaShare | None:
        """Reserve. Where the counters are away and no money is at stake, return a share of the limits instead."""
        try:
            await self._reservations.reserve(reservation, nano, tokens, minimum, model)
        except CountersUnavailable as away:
            if pricing.exact:
                raise
            share = QuotaShare(self._quota, pricing.limits, tokens, away)
            share.enter((*reservation.subjects, model))
            return share
        return None


def _began(route: str, model: str, upstream_model: str) -> tuple[AttemptHistory, tuple[Subject, Subject, Subject]]:
    """Return the history of the caller's new call, and the subjects that the caller is."""
    caller = context.caller_or_none() or PLATFORM
    history = AttemptHistory(caller.org, caller.desk, caller.key, route, [Attempt(model, upstream_model)])
    return history, caller_subjects(caller.org, caller.desk, caller.key)


def window_headers(window: Window) -> Headers:
    """Return OpenAI's headers on the tokens of the minute; the data plane adds the RateLimit fields' names to them."""
    seconds = max(0, -(-window.resets_ms // 1000))
    return [
        (b"x-ratelimit-limit-tokens", b"%d" % window.limit),
        (b"x-ratelimit-remaining-tokens", b"%d" % window.left),
        (b"x-ratelimit-reset-tokens", b"%ds" % seconds),
        (b"ratelimit-policy", b'"tokens";q=%d;w=60' % window.limit),
        (b"ratelimit", b'"tokens";r=%d;t=%d' % (window.left, seconds)),
    ]


async def build(scope: ServiceContext, settings: MeteringSettings) -> BudgetGate:
    """Make it: with what rate limiting says, or where the profile has none, without any bounds."""
    database = Database(scope.profile.postgres, "metering", pool_size=2)
    await database.start("drw.billing")
    scope.on_stop(database.stop)
    counters = Counters(scope.profile.valkey, seconds=settings.answer_seconds)
    scope.on_stop(counters.close)
    reservations = ReservationClient(counters, Ledger(database), settings, file=LeaseFile(scope.folder / "lease"))
    scope.on_stop(reservations.close)
    scope.background(reservations.run)
    if scope.has("rate_limiting"):
        client = scope.client(RateLimitingClient)
        pricing = CurrentPricing()
        watch = CachedWatch(
            Policy, lambda: client.watch_policy(WatchPolicyRequest()), scope.folder / "policy.pb", pricing.apply
        )
        scope.background(watch.follow)
    else:
        pricing = CurrentPricing.fixed(Policy())
    return BudgetGate(pricing, reservations)
