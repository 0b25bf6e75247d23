"""Enforces budgets and limits of each call: reserves before the first attempt, settles when the call ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Policy, WatchPolicyRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.amounts import FREE, Price
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
from drw.billing.usage import UsageUpdate
from drw.kernel.cached_watch import CachedWatch
from drw.kernel.errors import Unavailable
from drw.kernel.observability.overhead import waiting
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import ServiceContext
from drw.models.serving.metering.estimates import estimate, text_token_bound, unlimited_estimate
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.ports import Chunk
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, check_prompt_bytes

PLATFORM = Principal("", "", "platform")
"""The principal of calls without an API key."""

Headers = list[tuple[bytes, bytes]]
Call = MeteredCall[ChatModel]
Run = Callable[[Call], AsyncGenerator[Chunk, None]]


class BudgetGate:
    """Reserves, meters and settles each call."""

    def __init__(self, pricing: CurrentPricing, reservations: ReservationClient) -> None:
        self._pricing = pricing
        self._reservations = reservations
        self._quota = LocalQuota(reservations.settings.processes)

    async def metered(
        self, request: ModelRequest, record: CallRecord, run: Run, headers: Headers | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of `run`, which reports its attempts to the metered call.

        Ends after the call is settled and its record is closed. Raises what `run` raises, and:
            ContextLengthExceeded: the prompt is too long for all models.
            InsufficientQuota, LimitReached, ModelAtCapacity: the call exceeds a budget or limit.
            CountersUnavailable: budgets and limits cannot be checked now.
            Unavailable: the ledger cannot be written.
        """
        check_prompt_bytes(request)
        call = await self.reserve(request)
        if headers is not None and call.reservation and call.reservation.window:
            headers += rate_limit_headers(call.reservation.window)
        chunks = run(call)
        try:
            async for chunk in chunks:
                yield chunk
            await call.finalize(record=record)
        except BaseException as error:
            await chunks.aclose()
            with suppress(Unavailable):  # the reservation client retries
                await call.finalize(error, record)
            raise

    @asynccontextmanager
    async def embedding(
        self,
        model: str,
        inputs: Sequence[str | Sequence[int]],
        record: CallRecord,
        route: str = "embedding",
        default_price: Price = FREE,
    ) -> AsyncIterator[Call]:
        """Meter a request that only reads texts, for the block, which reports its usage by `MeteredCall.progress`.

        Raises and ends as `metered` does.
        """
        units = sum(map(text_token_bound, inputs))
        async with self._input_metered(route, model, model, units, record, default_price) as call:
            yield call

    @asynccontextmanager
    async def inference(
        self, model: str, version: str, rows: int, record: CallRecord, default_price: Price
    ) -> AsyncIterator[Call]:
        """Meter a request of so many rows to a predictive model; a row costs as much as a prompt token of the price.

        Raises and ends as `metered` does.
        """
        async with self._input_metered("inference", model, version, rows, record, default_price) as call:
            yield call
            await call.progress(UsageUpdate(input_tokens=rows, output_tokens=0, final=True))

    @asynccontextmanager
    async def _input_metered(
        self, route: str, model: str, version: str, units: int, record: CallRecord, default_price: Price = FREE
    ) -> AsyncIterator[Call]:
        """Meter a call that is charged by its input, of at most so many units."""
        history, caller = _start_history(route, model, version)
        policy = self._pricing.current()
        price = policy.price(model, version, datetime.now(UTC), default_price)
        maximum = Estimate(model, version, price, units, 0)
        pricing = policy.for_call((*caller, model_subject(model)), [price])
        call: Call
        if pricing.unlimited:
            call = MeteredCall(self._reservations, history)
        else:
            call = await self._reserve_call(history, caller, pricing, [maximum])
        try:
            await call.begin_within(maximum)
            yield call
            await call.finalize(record=record)
        except BaseException as error:
            with suppress(Unavailable):
                await call.finalize(error, record)
            raise

    async def reserve(self, request: ModelRequest) -> Call:
        """Reserve for a request and return its metered call; raises as `metered` does."""
        first = request.models[0]
        history, caller = _start_history("managed", first.id, first.upstream_model)
        policy, at = self._pricing.current(), datetime.now(UTC)
        prices = {
            model.id: policy.price(model.id, model.upstream_model, at, model.default_price) for model in request.models
        }
        subjects = (*caller, *(model_subject(model.id) for model in request.models))
        pricing = policy.for_call(subjects, list(prices.values()))
        if pricing.unlimited:
            return MeteredCall(self._reservations, history, estimate=unlimited_estimate, stream=request.stream)
        estimates: dict[str, Estimate] = {}

        async def estimate_for(model: ChatModel) -> Estimate:
            if model.id not in estimates:
                price = prices[model.id]
                estimates[model.id] = await estimate(model, request, price, self._reservations.settings)
            return estimates[model.id]

        with waiting("upstream"):
            if len(request.models) > 1:
                all_estimates = await asyncio.gather(*(estimate_for(model) for model in request.models))
            else:
                all_estimates = [await estimate_for(first)]
        return await self._reserve_call(history, caller, pricing, all_estimates, estimate_for, stream=request.stream)

    async def _reserve_call(
        self,
        history: AttemptHistory,
        caller: Sequence[Subject],
        pricing: CallPricing,
        estimates: Sequence[Estimate],
        estimate_for: Callable[[ChatModel], Awaitable[Estimate]] | None = None,
        *,
        stream: bool = False,
    ) -> Call:
        """Reserve for the caller and the first model with capacity; other models join at their attempt."""
        nano = max(model_estimate.nano for model_estimate in estimates)
        tokens = max(model_estimate.tokens for model_estimate in estimates)
        reservation = Reservation(history, caller)
        at_capacity: ModelAtCapacity | None = None
        for model_estimate in estimates:
            history.attempts = [model_estimate.attempt(started=True)]
            minimum = model_estimate.minimum(self._reservations.settings.min_tokens) if stream else None
            model = model_subject(model_estimate.model)
            try:
                share = await self._reserve_or_share(reservation, pricing, nano, tokens, minimum, model)
            except ModelAtCapacity as error:
                at_capacity = at_capacity or error
                continue
            return MeteredCall(
                self._reservations,
                history,
                None if share else reservation,
                estimate=estimate_for,
                exact=pricing.exact,
                stream=stream,
                share=share,
            )
        assert at_capacity is not None
        raise at_capacity

    async def _reserve_or_share(
        self,
        reservation: Reservation,
        pricing: CallPricing,
        nano: int,
        tokens: int,
        minimum: tuple[int, int] | None,
        model: Subject,
    ) -> QuotaShare | None:
        """Reserve. Without counters, return a local share of the limits if the call is free."""
        try:
            await self._reservations.reserve(reservation, nano, tokens, minimum, model)
        except CountersUnavailable as unavailable:
            if pricing.exact:
                raise
            share = QuotaShare(self._quota, pricing.limits, tokens, unavailable)
            share.enter((*reservation.subjects, model))
            return share
        return None


def _start_history(
    route: str, model: str, upstream_model: str
) -> tuple[AttemptHistory, tuple[Subject, Subject, Subject]]:
    """Return the history of a new call of the caller, and the caller's subjects of budgets and limits."""
    caller = context.caller_or_none() or PLATFORM
    history = AttemptHistory(caller.org, caller.desk, caller.key, route, [Attempt(model, upstream_model)])
    return history, caller_subjects(caller.org, caller.desk, caller.key)


def rate_limit_headers(window: Window) -> Headers:
    """Return the headers of the limit of tokens a minute: OpenAI's and the RateLimit fields."""
    seconds = max(0, -(-window.resets_ms // 1000))
    return [
        (b"x-ratelimit-limit-tokens", b"%d" % window.limit),
        (b"x-ratelimit-remaining-tokens", b"%d" % window.left),
        (b"x-ratelimit-reset-tokens", b"%ds" % seconds),
        (b"ratelimit-policy", b'"tokens";q=%d;w=60' % window.limit),
        (b"ratelimit", b'"tokens";r=%d;t=%d' % (window.left, seconds)),
    ]


async def build(scope: ServiceContext, settings: MeteringSettings) -> BudgetGate:
    """Build the gate with the policy of rate limiting; without that service there are no limits."""
    database = await scope.shared_database("metering", "drw.billing", pool_size=4)
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
