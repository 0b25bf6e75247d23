"""Automatic advance, promotion and rollback of rollouts, by one leader."""

from __future__ import annotations

import asyncio
import logging

from drw.api.models.v1.discovery_pb2 import PromoteAliasRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.experiments_pb2 import Rollout
from drw.kernel.errors import DeadlineExceeded, DrwError, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.storage.advisory_lock import LockId, acquired
from drw.kernel.storage.database import Database
from drw.models.experiments.rollouts.decisions import Action, Numbers, decide
from drw.models.experiments.rollouts.numbers import numbers_of
from drw.models.experiments.rollouts.store import RolloutStore, StoredRollout
from drw.models.experiments.treatments import AliasModels

log = logging.getLogger(__name__)

LOCK = LockId.named(0x726F6C6C, "leader")  # "roll"
ACTOR = "rollout"
"""The key of automatic changes, in the audit log."""
PROMOTE_SECONDS = 10.0


class RolloutLeader:
    """Changes running rollouts. One process leads; a change that another one made first is not made again."""

    def __init__(
        self,
        database: Database,
        store: RolloutStore,
        models: AliasModels,
        discovery: DiscoveryClient | None,
        seconds: float,
    ) -> None:
        self._database = database
        self._store = store
        self._models = models
        self._discovery = discovery
        self._seconds = seconds

    async def run(self) -> None:
        """Lead until cancelled, or until the lock is lost."""
        async with acquired(self._database, LOCK) as lock:
            await lock.run(self._check_always())

    async def check(self) -> None:
        """Check all running rollouts once."""
        for stored in await self._store.running():
            try:
                with acting_for(Principal(stored.org, "", ACTOR)):
                    await self._check_one(stored)
            except (DrwError, ValueError) as error:  # of this rollout only: the others are checked all the same
                log.error("a rollout cannot be checked: %s", error, extra={"fields": {"rollout": stored.rollout.name}})

    async def _check_always(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(self._seconds)

    async def _check_one(self, stored: StoredRollout) -> None:
        numbers = await numbers_of(self._database, stored, self._models)
        if stored.rollout.state == Rollout.PROMOTING:
            await self._promote(stored, numbers)
            return
        decision = decide(stored.rollout, numbers)
        if decision.action is Action.ROLL_BACK:
            await self._roll_back(stored, numbers, decision.reason)
        elif decision.action is Action.ADVANCE:
            await advance(self._store, stored, numbers, decision.reason)

    async def _promote(self, stored: StoredRollout, numbers: Numbers) -> None:
        """Make the candidate the only target.

        Both changes are safe to repeat if this process dies between them. Nothing is decided anymore, since the alias
        may be changed already.
        """
        rollout = stored.rollout
        if self._discovery is None:
            raise Unavailable("the platform runs without discovery", service="discovery")
        request = PromoteAliasRequest(alias=rollout.alias, model=rollout.model, rollout=rollout.name, org=stored.org)
        try:
            await self._discovery.promote_alias(request, timeout=PROMOTE_SECONDS)
        except (Unavailable, DeadlineExceeded):
            raise
        except DrwError as error:
            await self._roll_back(stored, numbers, f"the alias cannot be changed: {error.message}")
            return
        await self._store.change(stored, "promote", numbers=numbers.summary(), state=Rollout.PROMOTED)

    async def _roll_back(self, stored: StoredRollout, numbers: Numbers, reason: str) -> None:
        state = Rollout.ROLLED_BACK
        await self._store.change(
            stored, "rollback", reason=reason, numbers=numbers.summary(), state=state, percent=0, paused=False
        )
        log.warning("rollout rolled back", extra={"fields": {"rollout": stored.rollout.name, "reason": reason}})


async def advance(store: RolloutStore, stored: StoredRollout, numbers: Numbers, reason: str) -> StoredRollout | None:
    """Go to the next step, or begin the promotion after the last one; return None if another change came first."""
    later = [percent for percent in stored.rollout.steps if percent > stored.rollout.percent]
    state = Rollout.RAMP if later else Rollout.PROMOTING
    percent = later[0] if later else stored.rollout.percent
    return await store.change(
        stored, "advance", reason=reason, numbers=numbers.summary(), state=state, percent=percent, paused=False
    )
