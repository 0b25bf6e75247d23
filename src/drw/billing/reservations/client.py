"""Reservations of one process: its lease, reserve, write ahead, settle, and what the ledger does not have yet."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from drw.billing.counters.client import (
    Counters,
    CountersUnavailable,
    Granted,
    ReservationRefused,
    ReservationRequest,
    Unregistered,
)
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import settlement_rows, total
from drw.billing.reservations.errors import ReservationLost, quota_error
from drw.billing.reservations.lease_file import LeaseFile
from drw.billing.reservations.reservation import Reservation, Settlement
from drw.billing.settings import MeteringSettings
from drw.billing.subjects import Subject
from drw.kernel.errors import Unavailable

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.1
MAX_OWED = 1000
"""Settlements that may wait for the ledger; with more, no call begins."""
LEASE_SHARE = 0.9
"""The part of a lease that is used. The rest is for clocks that differ in speed."""


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
        self._owed: dict[str, Settlement] = {}
        self._strange: set[str] = set()
        self._over: set[str] = set()
        """Own leases that ended, and that the ledger still lists as holders."""
        self._failures: tuple[int, Unavailable | None] = 0, None
        """How many attempts to begin a lease failed, and the last error."""
        self._registering = asyncio.Lock()

    async def reserve(
        self,
        reservation: Reservation,
        nano: int,
        tokens: int,
        minimum: tuple[int, int] | None = None,
        model: Subject | None = None,
    ) -> None:
        """Reserve this much more, or what is left where that is at least `minimum`. From now on `model` binds it too.

        Raises:
            ModelAtCapacity: a budget or limit of the model is exhausted.
            InsufficientQuota: a budget is exhausted.
            LimitReached: a limit is reached.
            CountersUnavailable: nothing can be counted now.
            ReservationLost: what was reserved before is not held any more.
        """
        subjects = reservation.subjects
        if model is not None and model not in subjects:
            subjects = (*subjects, model)
        history = reservation.history.dump()
        request = ReservationRequest(reservation.id, reservation.step + 1, subjects, nano, tokens, history, minimum)
        answer = await self._take_step(reservation, request)
        if isinstance(answer, ReservationRefused):
            raise quota_error(answer, reservation.nano + nano, reservation.tokens + tokens)
        reservation.subjects = subjects
        reservation.step = request.step
        reservation.nano = answer.nano
        reservation.tokens = answer.tokens
        reservation.window = answer.window

    async def _take_step(self, reservation: Reservation, request: ReservationRequest) -> Granted | ReservationRefused:
        if request.step == 1 and len(self._owed) >= MAX_OWED:
            raise Unavailable("the ledger cannot be written, so nothing more is begun", part="postgres")
        for _ in range(3):
            process = reservation.process if request.step > 1 else await self._registered()
            reservation.process = process
            self._held[reservation.id] = reservation
            try:
                answer = await self._counters.reserve(process, request)
            except Unregistered:
                await self._register_again(process)
                if request.step > 1 and reservation.lost:
                    break
                continue
            except BaseException:
                if request.step == 1:  # whether it was reserved is not known; `_sweep` releases it if so
                    self._held.pop(reservation.id, None)
                raise
            if answer is None:
                break
            if isinstance(answer, ReservationRefused) and request.step == 1:
                del self._held[reservation.id]
            return answer
        if request.step == 1:
            self._held.pop(reservation.id, None)
            raise CountersUnavailable(
                "money and tokens cannot be counted now; try again", part="valkey", retry_after="2"
            )
        raise _lost()

    def holds(self, reservation: Reservation) -> bool:
        """Tell whether the reservation is held for certain."""
        return not reservation.lost and reservation.process == self._process and self._clock() < self._until

    async def check(self, reservation: Reservation) -> None:
        """Return while the reservation is held for certain.

        Raises:
            ReservationLost: it may not be held any more.
        """
        if not self.holds(reservation):
            await self.advance(reservation)

    async def advance(self, reservation: Reservation) -> None:
        """Write the attempts ahead: tokens may be passed on up to what they say.

        Raises:
            ReservationLost: they must not.
            CountersUnavailable: the attempts could not be written in time.
        """
        end = self._clock() + self.settings.patience_seconds
        tried = False
        while True:
            try:
                if not self.holds(reservation):
                    await self._register_again(reservation.process)
                if reservation.lost:
                    raise _lost()
                if await self._counters.advance(reservation.process, reservation.id, reservation.history.dump()):
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

    def owe(
        self, reservation: Reservation, outcome: str, counted_by: str, details: Mapping[str, int] | None = None
    ) -> Settlement:
        """Return what the attempts of a reservation are charged. It is owed until `commit` has written it."""
        rows = settlement_rows(
            reservation.id,
            reservation.history,
            at_ms=self._counters.now_ms(),
            max_cost=reservation.nano,
            max_tokens=reservation.tokens,
            outcome=outcome,
            counted_by=counted_by,
        )
        settlement = Settlement(rows, reservation, details or {})
        self._owed[reservation.id] = settlement
        return settlement

    async def commit(self, settlement: Settlement, audit_line: str = "") -> None:
        """Write the rows and the audit record of a call in one commit, then release the reservation.

        Raises:
            Unavailable: the ledger cannot be written now. `tidy` goes on trying what is owed, without the record.
        """
        reservation = settlement.reservation
        if reservation is None:
            await self._ledger.put(settlement.rows, audit_line)
            settlement.written = True
            return
        if not settlement.written:
            if not self.holds(reservation):  # another process may settle it, or none
                settlement.rows = [replace(row, posted=False) for row in settlement.rows]
            if not await self._ledger.put(
                settlement.rows, audit_line
            ):  # the reaper's rows, or ours whose answer is lost
                settlement.rows = await self._ledger.rows(row.id for row in settlement.rows)
            settlement.written = True
        await self._release(reservation, settlement)

    async def _release(self, reservation: Reservation, settlement: Settlement) -> None:
        """Move what is charged from reserved to spent, and release the rest."""
        rows = settlement.rows
        unposted = [row.id for row in rows if not row.posted]
        at_ms = rows[0].at.timestamp() * 1000
        try:
            counted = await self._counters.settle(reservation.process, reservation.id, at_ms, total(rows), unposted)
            if counted == "counted" and unposted:
                await self._ledger.mark_posted(unposted)
            # It went with a part of Valkey's data; without a lease it may be in what the counters were rebuilt from.
            if counted == "unknown" and not unposted and self.holds(reservation):
                await self._ledger.unpost([row.id for row in rows])
        except CountersUnavailable:
            log.warning("the counters are away: a call is settled in the ledger, and with them later")
            return
        self._owed.pop(reservation.id, None)
        self._held.pop(reservation.id, None)

    async def renew(self) -> None:
        """Renew the lease: in Valkey alone, so that it does not end because the ledger is unavailable."""
        if self._process:
            with suppress(Unavailable):
                async with self._registering:
                    await self._prolong()

    async def tidy(self) -> None:
        """Commit the settlements that are owed, and release reservations that are unknown here."""
        if not self._process:
            return
        await asyncio.gather(*(self._commit_owed(id) for id in list(self._owed)))
        with suppress(Unavailable):
            await self._ledger.add_holder(await self._registered())
            await self._sweep()
            for over in self._over - self._unwritten():
                await self._ledger.remove_holder(
                    over
                )  # the ledger has every call under it: no rebuild need wait for it
                self._over.discard(over)

    def _unwritten(self) -> set[str]:
        """Return the leases of calls that are not in the ledger yet."""
        written = {id for id, charge in self._owed.items() if charge.written}
        return {reservation.process for id, reservation in self._held.items() if id not in written}

    async def beat(self) -> None:
        """Renew and tidy once."""
        await self.renew()
        await self.tidy()

    async def run(self) -> None:
        """Renew and tidy for ever, independently of each other; hand back the leases of dead processes."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._every_beat(self.renew))
            both.create_task(self._every_beat(self.tidy))
            both.create_task(self._succeed())

    async def hand_back(self) -> None:
        """End the leases of processes that died before this one, so that nothing waits for them.

        Raises:
            Unavailable: some leases are not ended yet.
        """
        for process in list(self._file.dead) if self._file else ():
            await self._counters.end(process)
            await self._ledger.remove_holder(process)  # a rebuild need not wait for it: it brings nothing back
            assert self._file is not None
            self._file.handed_back(process)
            log.warning("handed back the lease of a process that died", extra={"fields": {"process": process}})

    async def close(self) -> None:
        """Commit what is owed and end the lease, where possible; otherwise a successor hands it back."""
        await self.beat()
        if self._process and not self._held:
            with suppress(Unavailable):
                await self._counters.leave(self._process)
                await self._ledger.remove_holder(self._process)
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

    async def _commit_owed(self, id: str) -> None:
        if (settlement := self._owed.get(id)) is None:  # the call itself wrote it meanwhile
            return
        try:
            await self.commit(settlement)
        except Unavailable:
            pass  # the next beat tries again
        except Exception:
            log.exception("a settlement cannot be written", extra={"fields": {"reservation": id}})

    async def _registered(self) -> str:
        """Return the name of the lease, which has begun."""
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
        await self._ledger.add_holder(process)  # first, so that a rebuild knows whom to wait for
        began = self._clock()
        try:
            await self._counters.register(process, self._ttl_ms, ())
        except BaseException:
            await self._ledger.remove_holder(process)  # nothing is ever held under it: a rebuild need not wait for it
            raise
        if self._process:
            self._over.add(self._process)
        self._process, self._until = process, began + self.settings.lease_seconds * LEASE_SHARE

    async def _register_again(self, process: str) -> None:
        """Register the reservations again after a loss of the counters; where that is too late they are lost."""
        async with self._registering:
            if process == self._process and not await self._prolong():
                await self._begin()

    async def _prolong(self) -> bool:
        """Lengthen the lease, and register its reservations where the counters lost them; False: it ended."""
        began = self._clock()
        if began < self._until and (
            await self._counters.renew(self._process, self._ttl_ms) or await self._bring_back(self._process)
        ):
            self._until = began + self.settings.lease_seconds * LEASE_SHARE
            return True
        self._until = 0.0
        return False

    async def _bring_back(self, process: str) -> bool:
        mine = [r.active() for r in self._held.values() if r.step and not r.lost and r.process == process]
        return await self._counters.register(process, self._ttl_ms, mine)

    async def _sweep(self) -> None:
        """Release reservations in Valkey whose confirmation never arrived."""
        strange = await self._counters.held_by(self._process) - self._held.keys()
        for id in strange & self._strange:
            await self._counters.settle(self._process, id, self._counters.now_ms(), ())
        self._strange = strange

    @property
    def _ttl_ms(self) -> int:
        return int(self.settings.lease_seconds * 1000)


def _lost() -> ReservationLost:
    return ReservationLost("this answer was away for too long and may not go on: ask again", retry_after="1")
