"""This process's part in counting money: its lease, its reservations, and what it still owes the ledger."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from drw.billing.counters.client import (
    ActiveReservation,
    Counters,
    CountersUnavailable,
    Granted,
    ReservationRefused,
    ReservationRequest,
    Unregistered,
    Window,
)
from drw.billing.ledger.attempts import AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settled, total
from drw.billing.subjects import Subject
from drw.kernel.errors import Unavailable
from drw.models.serving.metering.lease_file import LeaseFile
from drw.models.serving.metering.quota_errors import ReservationLost, refusal
from drw.models.serving.settings import MeteringSettings

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.1
MAX_OWED = 1000
"""Calls that the ledger does not know of yet; with more, none is begun."""
LEASE_SHARE = 0.9
"""How much of a lease is used: the rest is for clocks that do not run alike."""


class Reservation:
    """What one call may cost and take, held against every budget and limit that binds it."""

    def __init__(self, meter: ReservationClient, course: AttemptHistory, subjects: Sequence[Subject]) -> None:
        self.id = f"res_{secrets.token_hex(12)}"
        self.course = course
        self.subjects = subjects
        self.nano = 0
        self.tokens = 0
        self.window: Window | None = None
        self.process = ""
        self.lost = False
        self.step = 0
        self._meter = meter

    async def reserve(
        self, nano: int, tokens: int, least: tuple[int, int] | None = None, model: Subject | None = None
    ) -> None:
        """Reserve this much more, or what there is where that is at least `least`; from now on it binds `model` too.

        Raises:
            ModelFull: a budget or limit of the model binds.
            InsufficientQuota: a budget does not reach.
            LimitReached: a limit binds.
            CountersAway: nothing can be counted now.
            ReservationLost: what was reserved before is not held any more.
        """
        subjects = self.subjects if model is None or model in self.subjects else (*self.subjects, model)
        wish = ReservationRequest(self.id, self.step + 1, subjects, nano, tokens, self.course.dump(), least)
        answer = await self._meter.reserve(self, wish)
        if isinstance(answer, ReservationRefused):
            raise refusal(answer, self.nano + nano, self.tokens + tokens)
        self.subjects = subjects
        self.step, self.nano, self.tokens, self.window = wish.step, answer.nano, answer.tokens, answer.window

    async def advance(self) -> None:
        """Write down what the course says: tokens may be passed on up to there.

        Raises:
            ReservationLost: they may not.
            CountersAway: it could not be written down in time.
        """
        await self._meter.advance(self)

    async def check(self) -> None:
        """Return while the reservation is held for certain.

        Raises:
            ReservationLost: it may not be any more.
        """
        if not self._meter.holds(self):
            await self.advance()

    def charge(self, outcome: str, counted_by: str) -> list[Row]:
        """Return what the course says is to be charged: from now on it is owed, until it is paid."""
        return self._meter.charge(self, outcome, counted_by)

    async def pay(self, record: str = "") -> None:
        """Write what is owed, with the audit record of the call, and release the rest.

        Raises:
            Unavailable: the ledger cannot be written now; the meter goes on trying, without the record.
        """
        await self._meter.pay(self.id, record)

    def held(self) -> ActiveReservation:
        """Return it as the counters keep it."""
        return ActiveReservation(self.id, self.step, self.subjects, self.nano, self.tokens, self.course.dump())


@dataclass(slots=True)
class PendingCharge:
    """What a call is charged, until the ledger and the counters know of it."""

    rows: list[Row]
    written: bool = False


class ReservationClient:
    """Reserves and settles for one process.

    `clock` is monotonic, in seconds. With a `file`, leases of processes that died before are handed back.
    """

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        settings: MeteringSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        file: LeaseFile | None = None,
    ) -> None:
        self.settings = settings
        self._file = file
        self._counters = counters
        self._ledger = ledger
        self._clock = clock
        self._process = ""
        self._until = 0.0
        self._held: dict[str, Reservation] = {}
        self._owed: dict[str, PendingCharge] = {}
        self._strange: set[str] = set()
        self._over: set[str] = set()
        """Own leases that are over, of which the ledger still says that they hold something."""
        self._failures: tuple[int, Unavailable | None] = 0, None
        """How many attempts to begin a lease have failed, and how the last one did."""
        self._registering = asyncio.Lock()

    async def reserve(self, reservation: Reservation, wish: ReservationRequest) -> Granted | ReservationRefused:
        """Take one step of a reservation; see `Reservation.reserve`."""
        if wish.step == 1 and len(self._owed) >= MAX_OWED:
            raise Unavailable("the ledger cannot be written, so nothing more is begun", part="postgres")
        for _ in range(3):
            process = reservation.process if wish.step > 1 else await self._registered()
            reservation.process = process
            self._held[reservation.id] = reservation
            try:
                answer = await self._counters.reserve(process, wish)
            except Unregistered:
                await self._register_again(process)
                if wish.step > 1 and reservation.lost:
                    break
                continue
            except BaseException:
                if wish.step == 1:  # whether it was reserved is not known; `_sweep` releases it if so
                    self._held.pop(reservation.id, None)
                raise
            if answer is None:
                break
            if isinstance(answer, ReservationRefused) and wish.step == 1:
                del self._held[reservation.id]
            return answer
        if wish.step == 1:
            self._held.pop(reservation.id, None)
            raise CountersUnavailable(
                "money and tokens cannot be counted now; try again", part="valkey", retry_after="2"
            )
        raise _lost()

    def holds(self, reservation: Reservation) -> bool:
        """Tell whether the reservation is held for certain."""
        return not reservation.lost and reservation.process == self._process and self._clock() < self._until

    async def advance(self, reservation: Reservation) -> None:
        """See `Reservation.advance`."""
        end = self._clock() + self.settings.patience_seconds
        tried = False
        while True:
            try:
                if not self.holds(reservation):
                    await self._register_again(reservation.process)
                if reservation.lost:
                    raise _lost()
                if await self._counters.advance(reservation.process, reservation.id, reservation.course.dump()):
                    return
                if tried:
                    reservation.lost = True
                    raise _lost()
                tried = True
                await self._register_again(reservation.process)
            except CountersUnavailable:
                if self._clock() >= end:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)

    def charge(self, reservation: Reservation, outcome: str, counted_by: str) -> list[Row]:
        """See `Reservation.charge`."""
        rows = settled(
            reservation.id,
            reservation.course,
            at_ms=self._counters.now_ms(),
            most=reservation.nano,
            most_tokens=reservation.tokens,
            outcome=outcome,
            counted_by=counted_by,
        )
        self._owed[reservation.id] = PendingCharge(rows)
        return rows

    async def pay(self, id: str, record: str = "") -> None:
        """Pay what is owed for a reservation; see `Reservation.pay`."""
        reservation, owed = self._held[id], self._owed[id]
        if not owed.written:
            if not self.holds(reservation):  # somebody else may settle it, or nobody
                owed.rows = [replace(row, posted=False) for row in owed.rows]
            if not await self._ledger.put(owed.rows, record):  # a reaper's, or our own of which we did not hear
                owed.rows = await self._ledger.rows(row.id for row in owed.rows)
            owed.written = True
        late = [row.id for row in owed.rows if not row.posted]
        at_ms, charges = owed.rows[0].at.timestamp() * 1000, total(owed.rows)
        try:
            said = await self._counters.settle(reservation.process, id, at_ms, charges, late)
            if said == "counted" and late:
                await self._ledger.mark_posted(late)
            # It went with a part of Valkey's data; without a lease it may be in what the counters were rebuilt from.
            if said == "unknown" and not late and self.holds(reservation):
                await self._ledger.unpost([row.id for row in owed.rows])
        except CountersUnavailable:
            log.warning("the counters are away: a call is settled in the ledger, and with them later")
            return
        self._owed.pop(id, None)
        self._held.pop(id, None)

    async def renew(self) -> None:
        """Give a sign of life: to Valkey alone, so that a lease does not end because the ledger does not answer."""
        if self._process:
            with suppress(Unavailable):
                async with self._registering:
                    await self._prolong()

    async def tidy(self) -> None:
        """Pay what is owed, and release what nobody here knows of."""
        if not self._process:
            return
        await asyncio.gather(*(self._pay_later(id) for id in list(self._owed)))
        with suppress(Unavailable):
            await self._ledger.hold(await self._registered())
            await self._sweep()
            for over in self._over - self._unwritten():
                await self._ledger.let_go(over)  # the ledger has every call under it: no rebuild need wait for it
                self._over.discard(over)

    def _unwritten(self) -> set[str]:
        """Return the leases under which there are calls that the ledger does not know of."""
        written = {id for id, charge in self._owed.items() if charge.written}
        return {reservation.process for id, reservation in self._held.items() if id not in written}

    async def beat(self) -> None:
        """Renew and tidy once."""
        await self.renew()
        await self.tidy()

    async def run(self) -> None:
        """Renew and tidy for ever, neither waiting for the other; hand back what the dead hold."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._every_beat(self.renew))
            both.create_task(self._every_beat(self.tidy))
            both.create_task(self._succeed())

    async def hand_back(self) -> None:
        """End the leases of those that died before this process, so that nobody waits for them.

        Raises:
            Unavailable: not of all of them yet.
        """
        for process in list(self._file.dead) if self._file else ():
            await self._counters.end(process)
            await self._ledger.let_go(process)  # a rebuild need not wait for it: it brings nothing back
            assert self._file is not None
            self._file.handed_back(process)
            log.warning("handed back the lease of a process that died", extra={"fields": {"process": process}})

    async def close(self) -> None:
        """Pay what is owed and end the lease, where that can be done; else a successor hands it back."""
        await self.beat()
        if self._process and not self._held:
            with suppress(Unavailable):
                await self._counters.leave(self._process)
                await self._ledger.let_go(self._process)
        if self._file:
            self._file.release()

    async def _succeed(self) -> None:
        while True:
            try:
                return await self.hand_back()
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _every_beat(self, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_seconds)
            await do()

    async def _pay_later(self, id: str) -> None:
        if id not in self._owed:  # most are paid, meanwhile, by the calls that owe them
            return
        try:
            await self.pay(id)
        except Unavailable:
            pass  # the next beat tries again
        except Exception:
            log.exception("a call cannot be paid for", extra={"fields": {"reservation": id}})

    async def _registered(self) -> str:
        """Return the process's name for this lease, with a lease that has begun."""
        if not self._process or self._clock() >= self._until:
            failures, _ = self._failures
            async with self._registering:
                if not self._process or self._clock() >= self._until:
                    now, failure = self._failures
                    if failure and now > failures:  # all who wait at one moment wait for one attempt
                        raise type(failure)(failure.message, **failure.metadata)
                    await self._try_to_begin()
        return self._process

    async def _try_to_begin(self) -> None:
        try:
            await self._begin()
        except Unavailable as failure:
            self._failures = self._failures[0] + 1, failure
            raise

    async def _begin(self) -> None:
        """Begin a new lease under a new name; what was held under the old one is lost."""
        for reservation in self._held.values():
            reservation.lost = True
        process = f"ser_{secrets.token_hex(8)}"
        if self._file:
            self._file.begin(process)  # before it holds anything
        await self._ledger.hold(process)  # first, so that a rebuild knows whom to wait for
        began = self._clock()
        try:
            await self._counters.register(process, self._ttl_ms, ())
        except BaseException:
            await self._ledger.let_go(process)  # nothing is ever held under it: a rebuild need not wait for it
            raise
        if self._process:
            self._over.add(self._process)
        self._process, self._until = process, began + self.settings.lease_seconds * LEASE_SHARE

    async def _register_again(self, process: str) -> None:
        """Bring the reservations back after a loss of the counters; where that is too late they are lost."""
        async with self._registering:
            if process == self._process and not await self._prolong():
                await self._begin()

    async def _prolong(self) -> bool:
        """Lengthen the lease, with its reservations where the counters lost them; False: it is over."""
        began = self._clock()
        if began < self._until and (
            await self._counters.renew(self._process, self._ttl_ms) or await self._bring_back(self._process)
        ):
            self._until = began + self.settings.lease_seconds * LEASE_SHARE
            return True
        self._until = 0.0
        return False

    async def _bring_back(self, process: str) -> bool:
        mine = [r.held() for r in self._held.values() if r.step and not r.lost and r.process == process]
        return await self._counters.register(process, self._ttl_ms, mine)

    async def _sweep(self) -> None:
        """Release what Valkey holds for us from calls whose answer from it never came."""
        strange = await self._counters.held_by(self._process) - self._held.keys()
        for id in strange & self._strange:
            await self._counters.settle(self._process, id, self._counters.now_ms(), ())
        self._strange = strange

    @property
    def _ttl_ms(self) -> int:
        return int(self.settings.lease_seconds * 1000)


def _lost() -> ReservationLost:
    return ReservationLost("this answer was away for too long and may not go on: ask again", retry_after="1")
