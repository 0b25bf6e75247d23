"""Client of the counters in Valkey: each method runs one script, with a timeout."""

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
from drw.billing.subjects import PREFIX, Subject, period_end
from drw.kernel.errors import Unavailable

CONNECTIONS = 64

Charge = tuple[Subject, int, int]
"""A subject, and the nano-dollars and tokens to charge to it."""

Posting = tuple[str, float, Sequence[Charge]]
"""A ledger row for the counters: its id, its time in ms, and its charges."""

SettleResult = Literal["counted", "elsewhere", "unknown"]
"""counted: by this call. elsewhere: earlier, by `post` or by the reaper. unknown: there is no such reservation."""


class CountersUnavailable(Unavailable):
    """Valkey does not respond, or lost its data: nothing can be reserved."""


class NotOpen(CountersUnavailable):
    """The counters are being rebuilt."""


class Unregistered(Exception):
    """The process has no lease."""


@dataclass(frozen=True, slots=True)
class Window:
    """The tightest limit of tokens per minute."""

    limit: int
    left: int
    resets_ms: int


@dataclass(frozen=True, slots=True)
class Granted:
    """Total amounts of the reservation."""

    nano: int
    tokens: int
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class ReservationDenied:
    """The limit that denies a reservation, and its remaining amount."""

    subject: Subject
    measure: str
    """money, tokens, concurrent or requests."""
    period: str
    cap: int
    left: int
    wait_ms: int
    """Time until a retry can succeed, in ms; 0: unknown."""


@dataclass(frozen=True, slots=True)
class ReservationRequest:
    """Amounts to reserve; `step` numbers the requests of one reservation."""

    id: str
    step: int
    subjects: Sequence[Subject]
    nano: int
    tokens: int
    attempts: bytes
    """The attempts, serialised with `AttemptHistory.dump`, which a reaper needs to settle the reservation."""
    minimum: tuple[int, int] | None = None
    """Minimum nano-dollars and tokens to accept if less is left; None: all or nothing."""


@dataclass(frozen=True, slots=True)
class ActiveReservation:
    """A reservation that its process registers again after a loss of the counters."""

    id: str
    step: int
    subjects: Sequence[Subject]
    nano: int
    tokens: int
    attempts: bytes


class Counters:
    """Counters, caps, reservations and leases.

    `clock` returns the time in ms, for tests. Default: the clock of Valkey, the same for all processes.
    """

    def __init__(self, url: str, *, seconds: float = 1.0, clock: Callable[[], float] | None = None) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=seconds,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 1),  # a pooled connection can be to an earlier Valkey
            protocol=2,
        )
        self._redis = Redis.from_pool(pool)
        self._scripts = ScriptRunner(url, seconds)
        self._clock = clock

    async def reserve(self, process: str, request: ReservationRequest) -> Granted | ReservationDenied | None:
        """Reserve for all subjects or none; None: the reservation is no longer held.

        Raises:
            NotOpen: the counters are being rebuilt.
            Unregistered: the process has no lease.
            CountersUnavailable: Valkey does not respond.
        """
        minimum = request.minimum or (-1, -1)
        names = [subject.counter for subject in request.subjects]
        amounts = (request.nano, request.tokens, *minimum)
        response = await self._run(
            scripts.RESERVE, self._now(), process, request.id, request.step, *amounts, request.attempts, *names
        )
        verdict, *values = (part.decode() if isinstance(part, bytes) else part for part in response)
        if verdict == "closed":
            raise _not_open()
        if verdict == "unregistered":
            raise Unregistered
        if verdict == "lost":
            return None
        if verdict == "denied":
            index, measure, period, *amounts_left = values
            cap, left, wait = map(int, amounts_left)
            return ReservationDenied(
                request.subjects[int(index) - 1], measure, period, cap, left, wait or self._ms_until_end(period)
            )
        nano, tokens, *window = map(int, values)
        return Granted(nano, tokens, Window(*window) if window else None)

    async def advance(self, process: str, id: str, attempts: bytes) -> bool:
        """Write the attempts ahead; False: the reservation is no longer held."""
        return bool(await self._run(scripts.ADVANCE, self._now(), process, id, attempts))

    async def settle(
        self, process: str, id: str, at_ms: float, charges: Iterable[Charge], unposted: Sequence[str] = ()
    ) -> SettleResult:
        """Add the charges to spent and release the reservation; an empty `process` settles for a dead process.

        `unposted` are the ids of rows that the ledger has not marked as posted.

        Raises:
            NotOpen: the counters are being rebuilt; the reservation stays until a retry.
        """
        args = (self._now(), process, id, int(at_ms), len(unposted), *unposted, *_flatten(charges))
        if (result := (await self._run(scripts.SETTLE, *args)).decode()) == "closed":
            raise _not_open()
        settled: SettleResult = result
        return settled

    async def renew(self, process: str, ttl_ms: int) -> bool:
        """Renew a lease; False: it has ended."""
        return bool(await self._run(scripts.RENEW, self._now(), ttl_ms, process))

    async def register(self, process: str, ttl_ms: int, reservations: Iterable[ActiveReservation]) -> bool:
        """Begin a lease with these reservations; False: the counters are open and do not have them."""
        args: list[Any] = []
        for reservation in reservations:
            names = orjson.dumps([subject.counter for subject in reservation.subjects])
            args += [reservation.id, reservation.nano, reservation.tokens, reservation.step, names]
            args.append(reservation.attempts)
        return bool(await self._run(scripts.REGISTER, self._now(), ttl_ms, process, *args))

    async def end(self, process: str) -> None:
        """End the lease of a dead process; the reaper settles its reservations."""
        await self._run(scripts.END, process)

    async def leave(self, process: str) -> None:
        """End the lease of a process without reservations."""
        await self._run(scripts.LEAVE, process)

    async def reservations_of(self, process: str) -> set[str]:
        """Return the ids of a process's reservations."""
        with _valkey_errors():
            ids: Any = await self._redis.smembers(f"{PREFIX}p:{process}")
        return {id.decode() for id in ids}

    async def expired(self, grace_ms: int) -> list[tuple[str, str, int, int, bytes]]:
        """Return process, id, nano-dollars, tokens and attempts of each reservation whose lease has ended."""
        reservations, _ = await self._run(scripts.EXPIRED, self._now(), grace_ms)
        return [(p.decode(), id.decode(), int(n), int(t), a) for p, id, n, t, a in reservations if n is not None]

    async def idle_processes(self, grace_ms: int) -> list[str]:
        """Return the processes without reservations whose lease has ended."""
        _, processes = await self._run(scripts.EXPIRED, self._now(), grace_ms)
        return [process.decode() for process in processes]

    async def is_open(self) -> bool:
        """Return whether the counters are complete."""
        return bool(await self.epoch())

    async def epoch(self) -> str:
        """Return the epoch of the counters; empty while they are incomplete."""
        with _valkey_errors():
            epoch: Any = await self._redis.get(f"{PREFIX}epoch")
        return epoch.decode() if epoch else ""

    async def memory_usage(self) -> float:
        """Return the fraction of Valkey's memory limit that is used; 0 without a limit."""
        with _valkey_errors():
            memory: Any = await self._redis.info("memory")
        return memory["used_memory"] / memory["maxmemory"] if memory["maxmemory"] else 0.0

    async def delete_all(self) -> None:
        """Close and delete all counters."""
        with _valkey_errors():
            await self._redis.delete(f"{PREFIX}epoch")
            async for key in self._redis.scan_iter(match=f"{PREFIX}*", count=1000):
                await self._redis.unlink(key)

    async def survey(self) -> tuple[str, set[str], set[str]]:
        """Return the number of registrations so far, the processes with a lease, and the ids of all reservations."""
        changes, processes, ids = await self._run(scripts.SURVEY)
        return changes.decode(), {p.decode() for p in processes}, {id.decode() for id in ids}

    async def load(self, subjects: Mapping[str, Mapping[str, int]]) -> None:
        """Set counters, by the key of their subject."""
        names = list(subjects)
        for start in range(0, len(names), 200):
            args: list[Any] = []
            for name in names[start : start + 200]:
                flat = [part for pair in subjects[name].items() for part in pair]
                args += [name, len(flat), *flat]
            if args:
                await self._run(scripts.LOAD, *args)

    async def open(self, epoch: str, changes: str, settled: Sequence[str], posted: Sequence[str]) -> bool:
        """Open the counters; False: a process registered reservations since the survey."""
        return bool(await self._run(scripts.OPEN, epoch, changes, len(settled), *settled, *posted))

    async def set_caps(self, version: int, caps: Iterable[tuple[Subject, str, str | int]]) -> bool:
        """Replace all caps; False: newer caps are already set."""
        flat = [part for subject, field, value in caps for part in (subject.counter, field, value)]
        return bool(await self._run(scripts.CAPS, version, *flat))

    async def caps_version(self) -> int:
        """Return the version of the caps; -1 without caps."""
        with _valkey_errors():
            version: Any = await self._redis.get(f"{PREFIX}caps")
        return int(version) if version else -1

    async def set_tokens(self, subject: Subject, day: int, month: int, total: int) -> None:
        """Set the used tokens of a subject, which start to be counted with its first budget of tokens."""
        await self._run(scripts.TOKENS, self._now(), subject.counter, day, month, total)

    async def post(self, rows: Iterable[Posting], read_ms: float) -> int:
        """Count ledger rows without a reservation, each once even if it is posted repeatedly; return how many.

        `read_ms` is the value of `now_ms` before the rows were read, or written, as not posted.

        Raises:
            NotOpen: the counters are being rebuilt from the ledger, which includes the rows.
            CountersUnavailable: the rows were read too long ago and must be read again.
        """
        flat: list[Any] = []
        for id, at_ms, charges in rows:
            args = _flatten(charges)
            flat += [id, int(at_ms), len(args) // 3, *args]
        if not flat:
            return 0
        counted = int(await self._run(scripts.POST, self._now(), int(read_ms), *flat))
        if counted == -1:
            raise _not_open()
        if counted < 0:
            raise CountersUnavailable("rows were read too long ago to be counted now", part="valkey", retry_after="2")
        return counted

    async def posted(self, ids: Sequence[str]) -> None:
        """Shorten the deduplication marks of rows that the ledger has marked as posted."""
        await self._run(scripts.POSTED, *ids)

    async def peek(self, subjects: Sequence[Subject]) -> list[dict[str, int]]:
        """Return the counters and caps of each subject, with the field names of `lua/prelude.lua`.

        Raises:
            NotOpen: the counters are being rebuilt.
        """
        if not subjects:
            return []
        epoch, values = await self._run(scripts.PEEK, self._now(), *(subject.counter for subject in subjects))
        if not epoch:
            raise _not_open()
        return [_parse_counters(flat) for flat in values]

    async def close(self) -> None:
        """Close the connections."""
        await self._scripts.close()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def now_ms(self) -> float:
        """Return the time of this process, or of the test's clock, in ms."""
        return self._clock() if self._clock else time.time() * 1000

    def _ms_until_end(self, period: str) -> int:
        """Return the ms until the day or month ends; 0 for other periods."""
        now = self.now_ms()
        end = period_end(period, datetime.fromtimestamp(now / 1000, UTC)) if period in ("day", "month") else None
        return int(end.timestamp() * 1000 - now) if end else 0

    def _now(self) -> str:
        return str(int(self._clock())) if self._clock else ""

    async def _run(self, script: str, *args: Any) -> Any:
        with _valkey_errors():
            return await self._scripts.run(script, args)


@contextmanager
def _valkey_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError, OSError) as error:
        message = f"money and tokens cannot be counted now: Valkey does not answer ({type(error).__name__})"
        raise CountersUnavailable(message, part="valkey", retry_after="2") from error


def _not_open() -> NotOpen:
    return NotOpen("the counters of money and tokens are being rebuilt", part="valkey", retry_after="5")


def _flatten(charges: Iterable[Charge]) -> list[Any]:
    return [part for subject, nano, tokens in charges for part in (subject.counter, nano, tokens)]


def _parse_counters(flat: Sequence[bytes]) -> dict[str, int]:
    pairs = {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
    return {name: int(value) for name, value in pairs.items() if name not in ("Cwa", "Cra")}
