"""Reservation client of one process: its lease, reservations, write-ahead, and settlements."""

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
    ReservationDenied,
    ReservationRequest,
    Unregistered,
)
from drw.billing.ledger.ledger import InCommit, Ledger
from drw.billing.ledger.rows import settlement_rows, total_charges
from drw.billing.reservations.errors import ReservationLost, quota_error
from drw.billing.reservations.lease_file import LeaseFile
from drw.billing.reservations.reservation import Reservation, Settlement
from drw.billing.settings import MeteringSettings
from drw.billing.subjects import Subject
from drw.kernel.errors import Unavailable

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.1
MAX_PENDING_SETTLEMENTS = 1000
"""Maximum settlements that are not in the ledger yet; at the maximum, no call starts."""
LEASE_SAFETY_FACTOR = 0.9
"""Fraction of a lease that is used, because clocks differ in speed."""


class ReservationClient:
    """Reserves and settles for one process.

    `clock` is monotonic, in seconds. With a `file`, leases of dead predecessors are returned.
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
        self._lease = ""
        self._lease_end = 0.0
        self._active: dict[str, Reservation] = {}
        self._pending: dict[str, Settlement] = {}
        self._unknown_ids: set[str] = set()
        self._ended_leases: set[str] = set()
        """Ended leases of this process that the ledger still lists as holders."""
        self._failures: tuple[int, Unavailable | None] = 0, None
        """Number of failed attempts to begin a lease, and the last error."""
        self._registering = asyncio.Lock()

    async def reserve(
        self,
        reservation: Reservation,
        nano: int,
        tokens: int,
        minimum: tuple[int, int] | None = None,
        model: Subject | None = None,
    ) -> None:
        """Reserve this amount in addition, or the remainder if it is at least `minimum`; add `model` to the subjects.

        Raises:
            ModelAtCapacity: a budget or limit of the model is exhausted.
            InsufficientQuota: a budget is exhausted.
            LimitReached: a limit is reached.
            CountersUnavailable: the counters do not respond.
            ReservationLost: the earlier reservation is no longer held.
        """
        subjects = reservation.subjects
        if model is not None and model not in subjects:
            subjects = (*subjects, model)
        history = reservation.history.dump()
        request = ReservationRequest(reservation.id, reservation.step + 1, subjects, nano, tokens, history, minimum)
        result = await self._reserve_step(reservation, request)
        if isinstance(result, ReservationDenied):
            raise quota_error(result, reservation.nano + nano, reservation.tokens + tokens)
        reservation.subjects = subjects
        reservation.step = request.step
        reservation.nano = result.nano
        reservation.tokens = result.tokens
        reservation.window = result.window

    async def _reserve_step(self, reservation: Reservation, request: ReservationRequest) -> Granted | ReservationDenied:
        if request.step == 1 and len(self._pending) >= MAX_PENDING_SETTLEMENTS:
            raise Unavailable("the ledger cannot be written, so no call can start", part="postgres")
        for _ in range(3):
            process = reservation.process if request.step > 1 else await self._current_lease()
            reservation.process = process
            self._active[reservation.id] = reservation
            try:
                result = await self._counters.reserve(process, request)
            except Unregistered:
                await self._extend_or_replace_lease(process)
                if request.step > 1 and reservation.lost:
                    break
                continue
            except BaseException:
                if request.step == 1:  # if it was reserved nevertheless, `_release_unknown` releases it
                    self._active.pop(reservation.id, None)
                raise
            if result is None:
                break
            if isinstance(result, ReservationDenied) and request.step == 1:
                del self._active[reservation.id]
            return result
        if request.step == 1:
            self._active.pop(reservation.id, None)
            raise CountersUnavailable(
                "money and tokens cannot be counted now; try again", part="valkey", retry_after="2"
            )
        raise _reservation_lost()

    def holds(self, reservation: Reservation) -> bool:
        """Return whether the reservation is certainly held."""
        return not reservation.lost and reservation.process == self._lease and self._clock() < self._lease_end

    async def check(self, reservation: Reservation) -> None:
        """Check that the reservation is held.

        Raises:
            ReservationLost: the reservation is no longer held.
        """
        if not self.holds(reservation):
            await self.advance(reservation)

    async def advance(self, reservation: Reservation) -> None:
        """Write the attempts ahead. Afterwards tokens can be delivered up to the counts of the attempts.

        Raises:
            ReservationLost: the reservation is no longer held; nothing must be delivered.
            CountersUnavailable: the attempts could not be written in time.
        """
        end = self._clock() + self.settings.patience_seconds
        retried = False
        while True:
            try:
                if not self.holds(reservation):
                    await self._extend_or_replace_lease(reservation.process)
                if reservation.lost:
                    raise _reservation_lost()
                if await self._counters.advance(reservation.process, reservation.id, reservation.history.dump()):
                    return
                if retried:
                    reservation.lost = True
                    raise _reservation_lost()
                retried = True
                await self._extend_or_replace_lease(reservation.process)
            except CountersUnavailable:
                if self._clock() >= end:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    def prepare_settlement(
        self, reservation: Reservation, outcome: str, counted_by: str, details: Mapping[str, int] | None = None
    ) -> Settlement:
        """Return the settlement of a reservation. It stays pending until `commit` has written it."""
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
        self._pending[reservation.id] = settlement
        return settlement

    async def commit(self, settlement: Settlement, audit_line: str = "", in_commit: InCommit | None = None) -> None:
        """Write the rows and the audit record of a call in one commit, then release the reservation.

        Raises what `in_commit` raises, and:
            Unavailable: the ledger cannot be written. `settle_pending` retries the rows, without the audit record.
        """
        reservation = settlement.reservation
        if reservation is None:
            await self._put(settlement, audit_line, in_commit)
            settlement.written = True
            return
        if not settlement.written:
            if not self.holds(reservation):  # the reaper may settle it
                settlement.rows = [replace(row, posted=False) for row in settlement.rows]
            if not await self._put(settlement, audit_line, in_commit):
                # Rows of the reaper, or of an earlier attempt whose response was lost.
                settlement.rows = await self._ledger.rows(row.id for row in settlement.rows)
            settlement.written = True
        await self._release(reservation, settlement)

    async def _put(self, settlement: Settlement, audit_line: str, in_commit: InCommit | None) -> bool:
        if in_commit is None:
            return await self._ledger.put(settlement.rows, audit_line)
        settlement.committing = True
        try:
            return await self._ledger.put_with(settlement.rows, audit_line, in_commit)
        finally:
            settlement.committing = False

    async def _release(self, reservation: Reservation, settlement: Settlement) -> None:
        """Move the charges from reserved to spent, and release the remainder."""
        rows = settlement.rows
        unposted = [row.id for row in rows if not row.posted]
        at_ms = rows[0].at.timestamp() * 1000
        try:
            settle_result = await self._counters.settle(
                reservation.process, reservation.id, at_ms, total_charges(rows), unposted
            )
            if settle_result == "counted" and unposted:
                await self._ledger.mark_posted(unposted)
            # Valkey lost the reservation. Without a lease, a rebuild may have counted the row already.
            if settle_result == "unknown" and not unposted and self.holds(reservation):
                await self._ledger.unpost([row.id for row in rows])
        except CountersUnavailable:
            log.warning("the counters do not respond: a call is settled in the ledger, and in the counters later")
            return
        self._pending.pop(reservation.id, None)
        self._active.pop(reservation.id, None)

    async def renew(self) -> None:
        """Renew the lease. Uses only Valkey, so that the lease does not end while the ledger is unavailable."""
        if self._lease:
            with suppress(Unavailable):
                async with self._registering:
                    await self._extend_lease()

    async def settle_pending(self) -> None:
        """Commit pending settlements, and release reservations that this process does not know."""
        if not self._lease:
            return
        await asyncio.gather(*(self._commit_pending(id) for id in list(self._pending)))
        with suppress(Unavailable):
            await self._ledger.add_holder(await self._current_lease())
            await self._release_unknown()
            # The ledger has all calls of these leases: a rebuild need not wait for them.
            for lease in self._ended_leases - self._leases_of_unwritten_calls():
                await self._ledger.remove_holder(lease)
                self._ended_leases.discard(lease)

    def _leases_of_unwritten_calls(self) -> set[str]:
        """Return the leases of calls that are not in the ledger yet."""
        written = {id for id, settlement in self._pending.items() if settlement.written}
        return {reservation.process for id, reservation in self._active.items() if id not in written}

    async def heartbeat(self) -> None:
        """Renew the lease and settle pending calls once."""
        await self.renew()
        await self.settle_pending()

    async def run(self) -> None:
        """Renew the lease and settle pending calls periodically; return the leases of dead processes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every_heartbeat(self.renew))
            tasks.create_task(self._every_heartbeat(self.settle_pending))
            tasks.create_task(self._return_dead_leases())

    async def return_dead_leases(self) -> None:
        """End the leases of dead predecessors, so that nothing waits for them.

        Raises:
            Unavailable: some leases are not ended yet.
        """
        for process in list(self._file.dead) if self._file else ():
            await self._counters.end(process)
            await self._ledger.remove_holder(process)  # a rebuild need not wait for it: it brings nothing back
            assert self._file is not None
            self._file.mark_returned(process)
            log.warning("returned the lease of a dead process", extra={"fields": {"process": process}})

    async def close(self) -> None:
        """Commit pending settlements and end the lease; if that fails, a successor returns the lease."""
        await self.heartbeat()
        if self._lease and not self._active:
            with suppress(Unavailable):
                await self._counters.leave(self._lease)
                await self._ledger.remove_holder(self._lease)
        if self._file:
            self._file.release()

    async def _return_dead_leases(self) -> None:
        while True:
            try:
                return await self.return_dead_leases()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def _every_heartbeat(self, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_seconds)
            await action()

    async def _commit_pending(self, id: str) -> None:
        settlement = self._pending.get(id)
        if settlement is None or settlement.committing:  # the call itself has committed it, or does so now
            return
        try:
            await self.commit(settlement)
        except Unavailable:
            pass  # the next heartbeat retries
        except Exception:  # a bug in one settlement must not end the commit of the others
            log.exception("a settlement cannot be written", extra={"fields": {"reservation": id}})

    async def _current_lease(self) -> str:
        """Return the current lease; begin a lease if there is none."""
        if not self._lease or self._clock() >= self._lease_end:
            failures, _ = self._failures
            async with self._registering:
                if not self._lease or self._clock() >= self._lease_end:
                    now, failure = self._failures
                    if failure and now > failures:  # concurrent callers share one attempt and its error
                        raise type(failure)(failure.message, **failure.metadata)
                    try:
                        await self._begin()
                    except Unavailable as error:
                        self._failures = now + 1, error
                        raise
        return self._lease

    async def _begin(self) -> None:
        """Begin a new lease; the reservations of the old lease are lost."""
        for reservation in self._active.values():
            reservation.lost = True
        process = f"ser_{secrets.token_hex(8)}"
        if self._file:
            self._file.begin(process)  # before the lease has reservations
        await self._ledger.add_holder(process)  # first, so that a rebuild waits for this lease
        start = self._clock()
        try:
            await self._counters.register(process, self._ttl_ms, ())
        except BaseException:
            await self._ledger.remove_holder(process)  # the lease has no reservations: a rebuild need not wait for it
            raise
        if self._lease:
            self._ended_leases.add(self._lease)
        self._lease, self._lease_end = process, start + self.settings.lease_seconds * LEASE_SAFETY_FACTOR

    async def _extend_or_replace_lease(self, process: str) -> None:
        """Extend the lease; if it has ended, begin a new one, which loses its reservations."""
        async with self._registering:
            if process == self._lease and not await self._extend_lease():
                await self._begin()

    async def _extend_lease(self) -> bool:
        """Extend the lease, and register its reservations again if the counters lost them; False: it has ended."""
        start, lease = self._clock(), self._lease
        extended = False
        if start < self._lease_end and not (extended := await self._counters.renew(lease, self._ttl_ms)):
            active = [r.active() for r in self._active.values() if r.step and not r.lost and r.process == lease]
            extended = await self._counters.register(lease, self._ttl_ms, active)
        self._lease_end = start + self.settings.lease_seconds * LEASE_SAFETY_FACTOR if extended else 0.0
        return extended

    async def _release_unknown(self) -> None:
        """Release reservations in Valkey whose confirmation was lost: those unknown in two heartbeats in a row."""
        unknown_ids = await self._counters.reservations_of(self._lease) - self._active.keys()
        for id in unknown_ids & self._unknown_ids:
            await self._counters.settle(self._lease, id, self._counters.now_ms(), ())
        self._unknown_ids = unknown_ids

    @property
    def _ttl_ms(self) -> int:
        return int(self.settings.lease_seconds * 1000)


def _reservation_lost() -> ReservationLost:
    return ReservationLost("the reservation of this call has expired: send the request again", retry_after="1")
