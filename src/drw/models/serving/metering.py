"""Holds every call to what it may cost: reserved before its first attempt, settled on every way out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import orjson

from drw.api.gateway.v1.rate_limiting_pb2 import Policy, WatchPolicyRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel import call
from drw.kernel.call import Caller
from drw.kernel.database import Database
from drw.kernel.errors import DeadlineExceeded, Unavailable
from drw.kernel.host import Scope
from drw.kernel.metering.amounts import FREE, Price
from drw.kernel.metering.attempts import Attempt, Course
from drw.kernel.metering.counters import Counters, CountersAway, Window
from drw.kernel.metering.ledger import Ledger
from drw.kernel.metering.subjects import Subject, of_call, of_model
from drw.kernel.overhead import waiting
from drw.models.serving.hold import Estimate, Estimating, Hold
from drw.models.serving.meter import Meter, MeterSettings, Reservation
from drw.models.serving.plans import Asked, ChatModel
from drw.models.serving.ports import Body, Chunk
from drw.models.serving.record import Record
from drw.models.serving.shares import Shares
from drw.models.serving.tariff import Tariffs, Terms

MESSAGE_TOKENS = 32
"""What a template may put around one message, and around the whole."""
TEXT_TOKENS = 8
"""What an embedding model may put around one text."""
UNBOUNDED = 1 << 53
PLATFORM = Caller("", "", "platform")
"""Whose calls those are that nobody's key began."""

Headers = list[tuple[bytes, bytes]]
Run = Callable[[Hold], AsyncGenerator[Chunk, None]]


class Metering:
    """Gives each call its hold."""

    def __init__(self, tariffs: Tariffs, meter: Meter, ledger: Ledger) -> None:
        self._tariffs = tariffs
        self._meter = meter
        self._ledger = ledger
        self._shares = Shares(meter.settings.processes)

    async def metered(
        self, asked: Asked, record: Record, run: Run, headers: Headers | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of `run`, which tells its attempts to the hold that it is given.

        Ends only when all is settled and the record of the call is closed. Raises what `run` raises, and:
            InsufficientQuota, LimitReached: the call does not fit.
            CountersAway: whether it fits cannot be known now.
            Unavailable: the ledger cannot be written.
        """
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
    async def embedding(self, model: str, texts: Sequence[str], record: Record) -> AsyncIterator[Hold]:
        """Hold an embedding for the block; say what it took by `Hold.progress`, and what came of it to the record.

        Raises and ends as `metered` does.
        """
        who, tariff = call.caller_or_none() or PLATFORM, self._tariffs.newest()
        course = Course(who.org, who.desk, who.key, "embedding", [Attempt(model, model)])
        subjects = (*of_call(who.org, who.desk, who.key), of_model(model))
        price = tariff.price(model, model, datetime.now(UTC))
        wanted = Estimate(model, model, price, sum(len(text.encode()) + TEXT_TOKENS for text in texts), 0)
        terms = tariff.terms(subjects, [price])
        hold = Hold(course, self._ledger) if terms.free else await self._reserved(course, subjects, terms, [wanted])
        try:
            await hold.begin_as(wanted)
            yield hold
            await hold.settle(record=record)
        except BaseException as error:
            with suppress(Unavailable):
                await hold.settle(error, record)
            raise

    async def hold(self, asked: Asked) -> Hold:
        """Return the hold of a request; see `metered` for what is raised."""
        who, tariff = call.caller_or_none() or PLATFORM, self._tariffs.newest()
        first = asked.models[0]
        course = Course(who.org, who.desk, who.key, "managed", [Attempt(first.id, first.upstream_model)])
        subjects = (*of_call(who.org, who.desk, who.key), *(of_model(model.id) for model in asked.models))
        at = datetime.now(UTC)
        prices = [tariff.price(model.id, model.upstream_model, at) for model in asked.models]
        terms = tariff.terms(subjects, prices)
        if terms.free:
            return Hold(course, self._ledger, estimate=_free)
        known: dict[str, Estimate] = {}

        async def estimate(model: ChatModel) -> Estimate:
            if model.id not in known:
                price = tariff.price(model.id, model.upstream_model, at)
                known[model.id] = await _estimate(model, asked, price, self._meter.settings)
            return known[model.id]

        estimates = [await estimate(model) for model in asked.models]
        return await self._reserved(course, subjects, terms, estimates, estimate, stream=asked.live)

    async def _reserved(
        self,
        course: Course,
        subjects: Sequence[Subject],
        terms: Terms,
        estimates: Sequence[Estimate],
        estimate: Estimating | None = None,
        *,
        stream: bool = False,
    ) -> Hold:
        settings = self._meter.settings
        nano, tokens = max(e.nano for e in estimates), max(e.tokens for e in estimates)
        course.attempts = [estimates[0].attempt()]
        reservation = Reservation(self._meter, course, subjects)
        try:
            least = estimates[0].least(settings.least_tokens) if stream else None
            await reservation.reserve(nano, tokens, least)
        except CountersAway as away:
            if terms.exact:
                raise
            self._shares.enter(terms.limits, tokens, away)
            finish = partial(self._shares.leave, terms.limits, tokens)
            return Hold(course, self._ledger, estimate=estimate, finish=finish)
        return Hold(
            course,
            self._ledger,
            reservation,
            estimate=estimate,
            exact=terms.exact,
            stream=stream,
            block=settings.block_tokens,
            least=settings.least_tokens,
        )


def prompt_bound(body: Body, image_tokens: int) -> int:
    """Return a bound on a prompt's tokens: no token is shorter than a byte of what the engine is sent."""
    images = sum(
        bool(part.get("type") == "image_url")
        for message in body.get("messages", ())
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
    around = MESSAGE_TOKENS * (1 + len(body.get("messages", ())))
    return len(orjson.dumps(body)) + around + images * image_tokens


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


async def _estimate(model: ChatModel, asked: Asked, price: Price, settings: MeterSettings) -> Estimate:
    counted = await _counted(model, asked)
    prompt = prompt_bound(asked.body, settings.image_tokens) if counted is None else counted
    # A bound on the prompt says nothing of the room that it leaves.
    room = model.context_length - (counted or 0) if model.context_length else None
    each = min((bound for bound in (asked.most_tokens, room) if bound is not None), default=settings.most_tokens)
    return Estimate(model.id, model.upstream_model, price, prompt, max(1, each) * asked.choices)


async def _free(model: ChatModel) -> Estimate:
    return Estimate(model.id, model.upstream_model, FREE, 0, UNBOUNDED)


async def _counted(model: ChatModel, asked: Asked) -> int | None:
    try:
        with waiting("upstream"):
            return await model.engine.count_prompt(model.replicas[0].target, asked.endpoint, asked.body)
    except (Unavailable, DeadlineExceeded):
        return None  # the attempt itself will say what is wrong


async def build(scope: Scope, settings: MeterSettings) -> Metering:
    """Make it: with what rate limiting says, or where the profile has none, without any bounds."""
    database = Database(scope.profile.postgres, "metering", pool_size=2)
    await database.start("drw.kernel.metering")
    scope.on_stop(database.stop)
    counters = Counters(scope.profile.valkey, seconds=settings.answer_seconds)
    scope.on_stop(counters.close)
    ledger = Ledger(database)
    meter = Meter(counters, ledger, settings)
    scope.on_stop(meter.close)
    scope.background(meter.run)
    if scope.has("rate_limiting"):
        client = scope.client(RateLimitingClient)
        tariffs = Tariffs(lambda: client.watch_policy(WatchPolicyRequest()), scope.folder / "policy.pb")
        tariffs.read()
        scope.background(tariffs.follow)
    else:
        tariffs = Tariffs.fixed(Policy())
    return Metering(tariffs, meter, ledger)
