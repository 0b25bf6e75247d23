"""Metering cluster: several processes on one Valkey and one PostgreSQL, with a clock that the test advances."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis.asyncio

from drw.api.gateway.v1.rate_limiting_pb2 import Policy
from drw.billing.counters.client import Counters
from drw.billing.counters.rebuild import CounterRebuild
from drw.billing.ledger.ledger import Ledger
from drw.billing.pricing.policy import CurrentPricing
from drw.billing.reservations.client import ReservationClient
from drw.billing.reservations.lease_file import LeaseFile
from drw.billing.reservations.metered_call import MeteredCall
from drw.billing.reservations.reaper import post, reap
from drw.billing.reservations.reservation import Reservation
from drw.billing.settings import MeteringSettings
from drw.billing.subjects import Subject
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.openai.usage import usage_update
from drw.models.serving.ports import (
    UNLIMITED,
    Body,
    ChatEngine,
    Chunk,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
)
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.candidates import ChatModel, ModelRequest
from drw.models.serving.routing.circuit_breaker import CircuitBreaker
from drw.models.serving.routing.load_balancing import Affinity, Replica
from drw.models.serving.settings import CircuitSettings
from support.json_types import Json

Cap = tuple[Subject, str, str | int]

LEASE, BEAT, BLOCK = 30.0, 5.0, 4
START_MS = 1_790_726_370_000.0  # 2026-09-29 23:59:30 UTC: a day ends soon, and the month the day after


class DoubleChat(ChatEngine):
    """Counts a prompt as the number that it contains."""

    def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        raise NotImplementedError

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        return CountedPrompt(int(body["prompt"]))

    async def check(self, target: EngineTarget) -> None: ...

    async def close(self) -> None: ...


def model(name: str) -> ChatModel:
    queue = AdmissionQueue(name, 1000, 0, 1)
    circuit = CircuitBreaker(CircuitSettings(), Clock(), name, "x")
    replica = Replica("x", EngineTarget(name, "http://x", f"up-{name}", ""), circuit)
    return ChatModel(name, f"up-{name}", DoubleChat(), "double", queue, (replica,), 0, 0, 0, "none", "none")


def model_request(
    models: Sequence[ChatModel], *, prompt: int | str, max_tokens: int | None, stream: bool, choices: int = 1
) -> ModelRequest:
    """Return a request with so many choices, each of at most so many tokens."""
    body = {"prompt": prompt}
    affinity = Affinity("", "", body)
    return ModelRequest("completions", body, affinity, tuple(models), stream, choices, max_tokens=max_tokens)


def token(text: str = "x", index: int = 0) -> Chunk:
    return {"choices": [{"index": index, "delta": {"content": text}}]}


def usage(prompt: int, completion: int) -> Chunk:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


async def report(metered: MeteredCall[ChatModel], chunk: Chunk) -> None:
    """Report a chunk to a metered call before it is delivered, as serving does."""
    await metered.progress(usage_update(chunk))


@dataclass
class Call:
    """A call in flight, and the tokens delivered to its caller."""

    gateway: Gateway
    metered: MeteredCall[ChatModel]
    prompt: int
    stream: bool
    choices: int = 1
    delivered: int = 0
    delivered_earlier: int = 0
    """Tokens delivered by earlier attempts."""
    ended: str = ""
    registered: bool = True
    """Whether the counters have the reservation: not between a loss of their data and the next heartbeat."""
    lost: bool = False
    """Whether the counters lost the reservation alone."""

    @property
    def reservation(self) -> Reservation:
        """The reservation, in a cluster with budgets."""
        assert self.metered.reservation is not None
        return self.metered.reservation

    @property
    def delivered_in_attempt(self) -> int:
        return self.delivered - self.delivered_earlier

    def next_token(self) -> Chunk:
        """Return a token of the next choice; with an odd length of the prompt, the engine reports counts."""
        turn, index = divmod(self.delivered_in_attempt, self.choices)
        counted = {"timings": {"predicted_n": turn + 1, "prompt_n": self.prompt}} if self.prompt % 2 else {}
        return token(index=index) | counted

    @property
    def id(self) -> str:
        assert self.metered.reservation is not None
        return self.metered.reservation.id


@dataclass
class Gateway:
    """One process that serves models."""

    reservations: ReservationClient
    metering: BudgetGate
    counters: Counters
    file: LeaseFile | None = None
    calls: list[Call] = field(default_factory=list)

    @property
    def lease(self) -> LeaseFile:
        """The lease file of a process that has one."""
        assert self.file is not None
        return self.file


class MeteringCluster:
    """Database, counters, ledger, and the clock."""

    def __init__(self, profile: Profile, database: Database, policy: Policy, caps: Sequence[Cap]) -> None:
        self.ms = START_MS
        self.profile = profile
        self.database = database
        self.ledger = Ledger(database)
        self.policy = policy
        self.caps = list(caps)
        self.version = 0
        self.redis = redis.asyncio.Redis.from_url(profile.valkey)
        self._counters: list[Counters] = []
        self._files: list[LeaseFile] = []
        self.counters = self.connect()
        self.rebuild = self.create_rebuild(CounterRebuild)

    def create_rebuild(self, kind: type[CounterRebuild]) -> CounterRebuild:
        return kind(self.counters, self.database, self.push_caps, self.newest_change, LEASE, lambda: self.ms / 1000)

    async def newest_change(self) -> int:
        return self.version

    def connect(self) -> Counters:
        counters = Counters(self.profile.valkey, clock=lambda: self.ms)
        self._counters.append(counters)
        return counters

    def gateway(self, path: Path | None = None, **settings: Json) -> Gateway:
        """Return a process; with a path, the successor of the process that had this lease file."""
        file = LeaseFile(path) if path else None
        self._files += [file] if file else []
        defaults = {
            "lease_seconds": LEASE,
            "heartbeat_seconds": BEAT,
            "patience_seconds": 0,
            "block_tokens": BLOCK,
        }
        counters = self.connect()
        reservations = ReservationClient(
            counters,
            Ledger(self.database),
            MeteringSettings(**{**defaults, "min_tokens": 2, **settings}),
            clock=lambda: self.ms / 1000,
            file=file,
        )
        metering = BudgetGate(CurrentPricing.fixed(self.policy), reservations)
        return Gateway(reservations, metering, counters, file)

    async def push_caps(self) -> None:
        self.version += 1
        await self.counters.set_caps(self.version, self.caps)

    async def clear(self) -> None:
        """Delete all data, and open the counters."""
        await self.redis.flushdb()
        async with self.database.transaction() as connection:
            await connection.execute("truncate metering.ledger, metering.holder")
        assert await self.rebuild.tick()

    async def lose_reservation(self, call: Call) -> None:
        """Remove a reservation from Valkey, as if the last second of its data were lost."""
        reservation = call.metered.reservation
        assert reservation is not None
        nano, tokens = await self.redis.hmget(f"drw:{{meter}}:h:{reservation.id}", "n", "t")
        if nano is None:
            return
        await self.redis.delete(f"drw:{{meter}}:h:{reservation.id}")
        await self.redis.srem(f"drw:{{meter}}:p:{reservation.process}", reservation.id)
        for subject in reservation.subjects:
            for name, amount in (("n", nano), ("t", tokens), ("c", 1)):
                await self.redis.hincrby(subject.counter, name, -int(amount or 0))

    async def tick(self) -> None:
        """Run the periodic work of rate limiting once."""
        if await self.rebuild.tick():
            await reap(self.counters, self.ledger)
            await post(self.counters, self.ledger)

    async def close(self) -> None:
        for file in self._files:
            file.release()
        for counters in self._counters:
            await counters.close()
        await self.redis.aclose()

    async def open(
        self,
        gateway: Gateway,
        principal: Principal,
        *models: ChatModel,
        prompt: int,
        max_tokens: int,
        stream: bool,
        choices: int = 1,
    ) -> Call:
        """Reserve for a request and begin its first attempt."""
        with acting_for(principal):
            metered = await gateway.metering.reserve(
                model_request(models, prompt=prompt, max_tokens=max_tokens, stream=stream, choices=choices)
            )
        call = Call(gateway, metered, prompt, stream, choices)
        gateway.calls.append(call)
        await metered.begin(models[0])
        return call


@asynccontextmanager
async def running_cluster(profile: Profile, policy: Policy, caps: Sequence[Cap]) -> AsyncIterator[MeteringCluster]:
    """Yield a cluster with an empty ledger and open counters."""
    database = Database(profile.postgres, "metering")
    await database.start("drw.billing")
    cluster = MeteringCluster(profile, database, policy, caps)
    try:
        await cluster.clear()
        yield cluster
    finally:
        await cluster.close()
        await database.stop()
