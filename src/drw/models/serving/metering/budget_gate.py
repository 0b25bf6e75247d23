"""Holds every call to what it may cost: reserved before its first attempt, settled on every way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import orjson

from drw.api.gateway.v1.rate_limiting_pb2 import Policy, WatchPolicyRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.amounts import FREE, Price
from drw.billing.counters.client import Counters, CountersUnavailable, Window
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.subjects import Subject, of_call, of_model
from drw.kernel.errors import Unavailable
from drw.kernel.observability.overhead import waiting
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.models.serving.engines.token_counting import counted
from drw.models.serving.metering.lease_file import LeaseFile
from drw.models.serving.metering.local_quota import LocalQuota, QuotaShare
from drw.models.serving.metering.metered_call import Estimate, Estimating, MeteredCall
from drw.models.serving.metering.pricing_policy import PricingTerms, PricingWatch
from drw.models.serving.metering.quota_errors import ModelAtCapacity
from drw.models.serving.metering.reservation_client import Reservation, ReservationClient
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.ports import Body, Chunk
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, check_prompt, split
from drw.models.serving.settings import MeteringSettings

MESSAGE_TOKENS = 32
"""What a template may put around one message, and around the whole."""
TEXT_TOKENS = 8
"""What an embedding model may put around one text."""
UNBOUNDED = 1 << 53
PLATFORM = Principal("", "", "platform")
"""Whose calls those are that nobody's key began."""

Headers = list[tuple[bytes, bytes]]
Run = Callable[[MeteredCall], AsyncGenerator[Chunk, None]]


class BudgetGate:
    """Gives each call its hold."""

    def __init__(self, tariffs: PricingWatch, meter: ReservationClient, ledger: Ledger) -> None:
        self._tariffs = tariffs
        self._meter = meter
        self._ledger = ledger
        self._shares = LocalQuota(meter.settings.processes)

    async def metered(
        self, asked: ModelRequest, record: CallRecord, run: Run, headers: Headers | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of `run`, which tells its attempts to the hold that it is given.

        Ends only when all is settled and the record of the call is closed. Raises what `run` raises, and:
            ContextLengthExceeded: no model reads so long a prompt.
            InsufficientQuota, LimitReached, ModelFull: the call does not fit.
            CountersAway: whether it fits cannot be known now.
            Unavailable: the ledger cannot be written.
        """
        check_prompt(asked)
        hold = await self.hold(asked)
        if headers is not None and hold.reservation and hold.reservation.window:
            headers += window_headers(hold.reservation.window)
        chunks = run(hold)
        try:
            async for chunk in chunks:
                yield chunk
            await hold.settle(record=record)
        except BaseException as error:
            await chunks.aclose()
            with suppress(Unavailable):  # the meter goes on trying
                await hold.settle(error, record)
            raise

    @asynccontextmanager
    async def embedding(
        self, model: str, inputs: Sequence[str | Sequence[int]], record: CallRecord
    ) -> AsyncIterator[MeteredCall]:
        """Meter an embedding request for the block.

        Report its usage by `MeteredCall.progress`, and its outcome to the record.

        Raises and ends as `metered` does.
        """
        who, tariff = context.caller_or_none() or PLATFORM, self._tariffs.newest()
        course = AttemptHistory(who.org, who.desk, who.key, "embedding", [Attempt(model, model)])
        caller = of_call(who.org, who.desk, who.key)
        price = tariff.price(model, model, datetime.now(UTC))
        wanted = Estimate(model, model, price, sum(map(_bound, inputs)), 0)
        terms = tariff.terms((*caller, of_model(model)), [price])
        hold = (
            MeteredCall(course, self._ledger) if terms.free else await self._reserved(course, caller, terms, [wanted])
        )
        try:
            await hold.begin_as(wanted)
            yield hold
            await hold.settle(record=record)
        except BaseException as error:
            with suppress(Unavailable):
                await hold.settle(error, record)
            raise

    async def hold(self, asked: ModelRequest) -> MeteredCall:
        """Return the hold of a request; see `metered` for what is raised."""
        who, tariff = context.caller_or_none() or PLATFORM, self._tariffs.newest()
        first = asked.models[0]
        course = AttemptHistory(who.org, who.desk, who.key, "managed", [Attempt(first.id, first.upstream_model)])
        caller = of_call(who.org, who.desk, who.key)
        at = datetime.now(UTC)
        prices = [tariff.price(model.id, model.upstream_model, at) for model in asked.models]
        terms = tariff.terms((*caller, *(of_model(model.id) for model in asked.models)), prices)
        if terms.free:
            return MeteredCall(course, self._ledger, estimate=_free, stream=asked.live)
        known: dict[str, Estimate] = {}

        async def estimate(model: ChatModel) -> Estimate:
            if model.id not in known:
                price = tariff.price(model.id, model.upstream_model, at)
                known[model.id] = await _estimate(model, asked, price, self._meter.settings)
            return known[model.id]

        with waiting("upstream"):
            if len(asked.models) > 1:
                estimates = await asyncio.gather(*(estimate(model) for model in asked.models))
            else:
                estimates = [await estimate(first)]
        return await self._reserved(course, caller, terms, estimates, estimate, stream=asked.live)

    async def _reserved(
        self,
        course: AttemptHistory,
        caller: Sequence[Subject],
        terms: PricingTerms,
        estimates: Sequence[Estimate],
        estimate: Estimating | None = None,
        *,
        stream: bool = False,
    ) -> MeteredCall:
        """Reserve for the caller and the first model that has room; others join where they are asked."""
        settings = self._meter.settings
        nano, tokens = max(e.nano for e in estimates), max(e.tokens for e in estimates)
        reservation = Reservation(self._meter, course, caller)
        full: ModelAtCapacity | None = None
        for wanted in estimates:
            course.attempts = [wanted.attempt(started=True)]
            least = wanted.least(settings.least_tokens) if stream else None
            try:
                share = await self._taken(reservation, terms, nano, tokens, least, of_model(wanted.model))
            except ModelAtCapacity as error:
                full = full or error
                continue
            return MeteredCall(
                course,
                self._ledger,
                None if share else reservation,
                estimate=estimate,
                exact=terms.exact,
                stream=stream,
                block=settings.block_tokens,
                least=settings.least_tokens,
                share=share,
            )
        assert full is not None
        raise full

    async def _taken(
        self,
        reservation: Reservation,
        terms: PricingTerms,
        nano: int,
        tokens: int,
        least: tuple[int, int] | None,
        model: Subject,
    ) -> QuotaShare | None:
        """Reserve; where the counters are away and no money is at stake, return the share that was taken instead."""
        try:
            await reservation.reserve(nano, tokens, least, model)
        except CountersUnavailable as away:
            if terms.exact:
                raise
            share = QuotaShare(self._shares, terms.limits, tokens, away)
            share.enter((*reservation.subjects, model))
            return share
        return None


def prompt_bound(body: Body, image_tokens: int) -> int:
    """Return a bound on a prompt's tokens: no token is shorter than a byte of what the engine is sent.

    A picture in the request itself (`data:`) has the tokens of a picture, however many bytes it has.
    """
    images = [
        part["image_url"].get("url", "")
        for message in body.get("messages", ())
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "image_url"
    ]
    pictures = sum(len(url) for url in images if url[:5].lower() == "data:")
    around = MESSAGE_TOKENS * (len(split(body)) + len(body.get("messages", ())))
    return len(orjson.dumps(body)) - pictures + around + len(images) * image_tokens


def _bound(text: str | Sequence[int]) -> int:
    """Return a bound on the tokens of one text, or of one that is tokens already."""
    return TEXT_TOKENS + len(text.encode() if isinstance(text, str) else text)


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


async def _estimate(model: ChatModel, asked: ModelRequest, price: Price, settings: MeteringSettings) -> Estimate:
    tokens = await counted(model, asked)
    prompt = prompt_bound(asked.body, settings.image_tokens) if tokens is None else tokens
    # A bound on the prompt says nothing of the room that it leaves.
    alone = tokens if len(split(asked.body)) == 1 else None  # of several, each has a context of its own
    room = model.context_length - (alone or 0) if model.context_length else None
    known = [bound for bound in (asked.most_tokens, room) if bound is not None]
    each = max(1, min(known, default=settings.most_tokens))
    bounds = {} if known else {asked.param: each}  # where nothing bounds the answer, what was reserved must
    return Estimate(model.id, model.upstream_model, price, prompt, each * asked.choices, bounds)


async def _free(model: ChatModel) -> Estimate:
    return Estimate(model.id, model.upstream_model, FREE, 0, UNBOUNDED)


async def build(scope: ServiceContext, settings: MeteringSettings) -> BudgetGate:
    """Make it: with what rate limiting says, or where the profile has none, without any bounds."""
    database = Database(scope.profile.postgres, "metering", pool_size=2)
    await database.start("drw.billing")
    scope.on_stop(database.stop)
    counters = Counters(scope.profile.valkey, seconds=settings.answer_seconds)
    scope.on_stop(counters.close)
    ledger = Ledger(database)
    meter = ReservationClient(counters, ledger, settings, file=LeaseFile(scope.folder / "lease"))
    scope.on_stop(meter.close)
    scope.background(meter.run)
    if scope.has("rate_limiting"):
        client = scope.client(RateLimitingClient)
        tariffs = PricingWatch(lambda: client.watch_policy(WatchPolicyRequest()), scope.folder / "policy.pb")
        tariffs.read()
        scope.background(tariffs.follow)
    else:
        tariffs = PricingWatch.fixed(Policy())
    return BudgetGate(tariffs, meter, ledger)
