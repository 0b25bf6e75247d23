"""The counters in Valkey: each method is one script, answered within a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from drw.billing.counters import scripts
from drw.billing.counters.script_runner import ScriptRunner
from drw.billing.subjects import PREFIX, Subject, ends
from drw.kernel.errors import Unavailable

CONNECTIONS = 64

Charge = tuple[Subject, int, int]
"""A subject, and the nano-dollars and tokens that it spent."""

Posting = tuple[str, float, Sequence[Charge]]
"""A ledger row: its id, its time in ms, and its charges."""

SettleResult = Literal["counted", "elsewhere", "unknown"]
"""counted: by this call. elsewhere: before, by `post`, or by the reaper. unknown: there is no such reservation."""


class CountersUnavailable(Unavailable):
    """Valkey does not answer, or lost its data: nothing can be reserved."""


class NotOpen(CountersUnavailable):
    """The counters are being rebuilt."""


class Unregistered(Exception):
    """This process has no lease."""


@dataclass(frozen=True, slots=True)
class Window:
    """The tightest bound on the tokens of a minute."""

    limit: int
    left: int
    resets_ms: int


@dataclass(frozen=True, slots=True)
class Granted:
    """What is reserved in total."""

    nano: int
    tokens: int
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class ReservationRefused:
    """The limit that refuses a reservation, and what is left of it."""

    subject: Subject
    measure: str
    """money, tokens, concurrent or requests."""
    period: str
    cap: int
    left: int
    wait_ms: int
    """Until some of it is free again; 0: unknown."""


@dataclass(frozen=True, slots=True)
class ReservationRequest:
    """What to reserve: `step` counts the requests for one reservation."""

    id: str
    step: int
    subjects: Sequence[Subject]
    nano: int
    tokens: int
    attempts: bytes
    """What a reaper needs to settle it, as `attempts.dump` writes it."""
    minimum: tuple[int, int] | None = None
    """The nano-dollars and tokens to accept where less than all is left; None: all or nothing."""


@dataclass(frozen=True, slots=True)
class ActiveReservation:
    """One reservation as its process stores it."""

    id: str
    step: int
    subjects: Sequence[Subject]
    nano: int
    tokens: int
    attempts: bytes


class Counters:
    """Counters, caps, reservations and leases.

    `clock` gives the time in ms where a test decides it; else Valkey's own counts, the same for all processes.
    """

    def __init__(self, url: str, *, seconds: float = 1.0, clock: Callable[[], float] | None = None) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=seconds,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 1),  # for a pooled connection that died with an earlier Valkey
            protocol=2,
        )
        self._redis = Redis.from_pool(pool)
        self._scripts = ScriptRunner(url, seconds)
        self._clock = clock

    async def reserve(self, process: str, request: ReservationRequest) -> Granted | ReservationRefused | None:
        """Reserve for all subjects or none; None: an earlier step of it is not held any more.

        Raises:
            NotOpen: the counters are being rebuilt.
            Unregistered: the process has no lease.
            CountersUnavailable: no answer.
        """
        minimum = request.minimum or (-1, -1)
        names = [subject.counter for subject in request.subjects]
        amounts = (request.nano, request.tokens, *minimum)
        answer = await self._run(
            scripts.RESERVE, self._now(), process, request.id, request.step, *amounts, request.attempts, *names
        )
        verdict, *rest = (part.decode() if isinstance(part, bytes) else part for part in answer)
        if verdict == "closed":
            raise _not_open()
        if verdict == "unregistered":
            raise Unregistered
        if verdict == "lost":
            return None
        if verdict == "refused":
            index, measure, period, *numbers = rest
            cap, left, wait = map(int, numbers)
            return ReservationRefused(
                request.subjects[int(index) - 1], measure, period, cap, left, wait or self._until_over(period)
            )
        nano, tokens, *window = map(int, rest)
        return Granted(nano, tokens, Window(*window) if window else None)

    async def advance(self, process: str, id: str, attempts: bytes) -> bool:
        """Write ahead how far an answer may go; False: the reservation is not held any more."""
        return bool(await self._run(scripts.ADVANCE, self._now(), process, id, attempts))

    async def settle(
        self, process: str, id: str, at_ms: float, charges: Iterable[Charge], unposted: Sequence[str] = ()
    ) -> SettleResult:
        """Move what was used to spent and release the rest; without a process in place of one that died.

        `unposted` are the rows of the ledger that it has as not posted yet.

        Raises:
            NotOpen: the counters are being rebuilt; it stays reserved, and is settled by another try.
        """
        parts = (self._now(), process, id, int(at_ms), len(unposted), *unposted, *_flat(charges))
        if (result := (await self._run(scripts.SETTLE, *parts)).decode()) == "closed":
            raise _not_open()
        settled: SettleResult = result
        return settled

    async def renew(self, process: str, ttl_ms: int) -> bool:
        """Lengthen a lease; False: there is none any more."""
        return bool(await self._run(scripts.RENEW, self._now(), ttl_ms, process))

    async def register(self, process: str, ttl_ms: int, reservations: Iterable[ActiveReservation]) -> bool:
        """Begin a lease with these reservations; False: the counters are open and do not know them."""
        parts: list[Any] = []
        for reservation in reservations:
            names = orjson.dumps([subject.counter for subject in reservation.subjects])
            parts += [reservation.id, reservation.nano, reservation.tokens, reservation.step, names]
            parts.append(reservation.attempts)
        return bool(await self._run(scripts.REGISTER, self._now(), ttl_ms, process, *parts))

    async def end(self, process: str) -> None:
        """End the lease of a process that is dead for certain; the reaper settles its reservations."""
        await self._run(scripts.END, process)

    async def leave(self, process: str) -> None:
        """End the lease of a process that holds nothing."""
        await self._run(scripts.LEAVE, process)

    async def held_by(self, process: str) -> set[str]:
        """Return the ids of a process's reservations."""
        with _answering():
            ids: Any = await self._redis.smembers(f"{PREFIX}p:{process}")
        return {id.decode() for id in ids}

    async def expired(self, grace_ms: int) -> list[tuple[str, str, int, int, bytes]]:
        """Return process, id, nano-dollars, tokens and attempts of each reservation whose lease has ended."""
        reservations, _ = await self._run(scripts.EXPIRED, self._now(), grace_ms)
        return [(p.decode(), id.decode(), int(n), int(t), a) for p, id, n, t, a in reservations if n is not None]

    async def idle_processes(self, grace_ms: int) -> list[str]:
        """Return the processes whose lease ended and that hold no reservation."""
        _, processes = await self._run(scripts.EXPIRED, self._now(), grace_ms)
        return [process.decode() for process in processes]

    async def is_open(self) -> bool:
        """Tell whether the counters are complete."""
        return bool(await self.epoch())

    async def epoch(self) -> str:
        """Return the name under which the counters were opened; empty while they are incomplete."""
        with _answering():
            epoch: Any = await self._redis.get(f"{PREFIX}epoch")
        return epoch.decode() if epoch else ""

    async def fullness(self) -> float:
        """Return how much of the memory is used that Valkey may take; 0 where it has no bound."""
        with _answering():
            memory: Any = await self._redis.info("memory")
        return memory["used_memory"] / memory["maxmemory"] if memory["maxmemory"] else 0.0

    async def forget(self) -> None:
        """Close the counters, and delete them."""
        with _answering():
            await self._redis.delete(f"{PREFIX}epoch")
            async for key in self._redis.scan_iter(match=f"{PREFIX}*", count=1000):
                await self._redis.unlink(key)

    async def survey(self) -> tuple[str, set[str], set[str]]:
        """Return the count of leases that began, the processes with a lease, and the ids of all reservations."""
        changes, processes, ids = await self._run(scripts.SURVEY)
        return changes.decode(), {p.decode() for p in processes}, {id.decode() for id in ids}

    async def load(self, subjects: Mapping[str, Mapping[str, int]]) -> None:
        """Set the counters of these subjects, by the names of their counters."""
        names = list(subjects)
        for start in range(0, len(names), 200):
            parts: list[Any] = []
            for name in names[start : start + 200]:
                flat = [part for pair in subjects[name].items() for part in pair]
                parts += [name, len(flat), *flat]
            if parts:
                await self._run(scripts.LOAD, *parts)

    async def open(self, epoch: str, changes: str, settled: Sequence[str], posted: Sequence[str]) -> bool:
        """Open the counters; False: a process registered reservations since the survey."""
        return bool(await self._run(scripts.OPEN, epoch, changes, len(settled), *settled, *posted))

    async def set_caps(self, version: int, caps: Iterable[tuple[Subject, str, str | int]]) -> bool:
        """Replace all caps; False: newer caps are set."""
        flat = [part for subject, field, value in caps for part in (subject.counter, field, value)]
        return bool(await self._run(scripts.CAPS, version, *flat))

    async def caps_version(self) -> int:
        """Return the version of the caps that are there; -1 where there are none."""
        with _answering():
            version: Any = await self._redis.get(f"{PREFIX}caps")
        return int(version) if version else -1

    async def set_tokens(self, subject: Subject, day: int, month: int, total: int) -> None:
        """Set what tokens a subject has used; done where they get their first budget."""
        await self._run(scripts.TOKENS, self._now(), subject.counter, day, month, total)

    async def post(self, rows: Iterable[Posting], read_ms: float) -> int:
        """Count rows of the ledger that had no reservation, each once however often it is posted; return how many.

        `read_ms` is by `now_ms` before the rows were read, or written, as not posted.

        Raises:
            NotOpen: the counters are being rebuilt, and it will be in what they are rebuilt from.
            CountersUnavailable: they were read too long ago: read them again.
        """
        flat: list[Any] = []
        for id, at_ms, charges in rows:
            parts = _flat(charges)
            flat += [id, int(at_ms), len(parts) // 3, *parts]
        if not flat:
            return 0
        counted = int(await self._run(scripts.POST, self._now(), int(read_ms), *flat))
        if counted == -1:
            raise _not_open()
        if counted < 0:
            raise CountersUnavailable("rows were read too long ago to be counted now", part="valkey", retry_after="2")
        return counted

    async def posted(self, ids: Sequence[str]) -> None:
        """Shorten the marks of rows that the ledger has as posted."""
        await self._run(scripts.POSTED, *ids)

    async def peek(self, subjects: Sequence[Subject]) -> list[dict[str, int]]:
        """Return counters and caps of each subject, as `scripts` names them.

        Raises:
            NotOpen: the counters are being rebuilt.
        """
        if not subjects:
            return []
        epoch, values = await self._run(scripts.PEEK, self._now(), *(subject.counter for subject in subjects))
        if not epoch:
            raise _not_open()
        return [_counters(flat) for flat in values]

    async def close(self) -> None:
        """Close the connections."""
        await self._scripts.close()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def now_ms(self) -> float:
        """Return the time by this process's clock, or the test's."""
        return self._clock() if self._clock else time.time() * 1000

    def _until_over(self, period: str) -> int:
        """Return in how many ms a day or month ends; 0 for what has no end, or one that Valkey knows."""
        now = self.now_ms()
        end = ends(period, datetime.fromtimestamp(now / 1000, UTC)) if period in ("day", "month") else None
        return int(end.timestamp() * 1000 - now) if end else 0

    def _now(self) -> str:
        return str(int(self._clock())) if self._clock else ""

    async def _run(self, script: str, *args: Any) -> Any:
        with _answering():
            return await self._scripts.run(script, args)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError, OSError) as error:
        message = f"money and tokens cannot be counted now: Valkey does not answer ({type(error).__name__})"
        raise CountersUnavailable(message, part="valkey", retry_after="2") from error


def _not_open() -> NotOpen:
    return NotOpen("the counters of money and tokens are being rebuilt", part="valkey", retry_after="5")


def _flat(charges: Iterable[Charge]) -> list[Any]:
    return [part for subject, nano, tokens in charges for part in (subject.counter, nano, tokens)]


def _counters(flat: Sequence[bytes]) -> dict[str, int]:
    pairs = {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
    return {name: int(value) for name, value in pairs.items() if name not in ("Cwa", "Cra")}
