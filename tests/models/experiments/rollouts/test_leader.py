"""The leader of rollouts: promotion that fails half-way, concurrent changes, and a candidate that loses its permit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drw.api.models.v1.experiments_pb2 import AdvanceRolloutRequest, Rollout
from drw.kernel.errors import Conflict, InvalidRequest, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database
from drw.models.experiments.rollouts.definition import normalised
from drw.models.experiments.rollouts.leader import RolloutLeader
from drw.models.experiments.rollouts.operations import RolloutOperations
from drw.models.experiments.rollouts.store import RolloutStore, StoredRollout
from drw.models.experiments.treatments import AliasModels
from models.experiments.rollouts.double_discovery import DoubleDiscovery, resolved

ADMIN = Principal("home", "ops", "key_admin", frozenset({"platform:admin"}))
DEFINITION = Rollout(name="swap", alias="fast", model="m", unit="request", steps=[50], step_seconds=3600)


class World:
    """A leader that the test runs, beside a double of discovery."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self.discovery = DoubleDiscovery(resolved(validation="v1"))
        self.store = RolloutStore(database, audit)
        models = AliasModels(self.discovery.client())
        self.leader = RolloutLeader(database, self.store, models, self.discovery.client(), 3600)
        self.operations = RolloutOperations(database, self.store, models, None)

    async def running(self, *states: Rollout.State) -> StoredRollout:
        """Return a rollout that went through these states."""
        stored = await self.store.create(normalised(DEFINITION))
        for state in (Rollout.APPROVED, *states):
            changed = await self.store.change(stored, "test", numbers={}, state=state, percent=50)
            assert changed is not None
            stored = changed
        return stored

    async def state(self) -> Any:
        rollout = (await self.store.get("swap")).rollout
        return Rollout.State.Name(rollout.state), rollout.reason


@asynccontextmanager
async def started(*databases: Database) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for database in databases:
            await database.stop()


@pytest.fixture
async def world(profile: Profile) -> AsyncIterator[World]:
    """The leader on PostgreSQL, acting for an administrator."""
    own, inbox = Database(profile.postgres, "experiments"), Database(profile.postgres, "audit")
    async with started(own, inbox):
        await inbox.start("drw.kernel.storage")
        await own.start("drw.models.experiments")
        with acting_for(ADMIN):
            yield World(own, AuditWriter(inbox, "experiments"))


async def test_a_promotion_is_repeated_until_it_is_recorded(world: World) -> None:
    await world.running(Rollout.RAMP, Rollout.PROMOTING)
    world.discovery.promotion_error = Unavailable("discovery stopped after it changed the alias")
    await world.leader.check()
    assert await world.state() == ("PROMOTING", "")
    with pytest.raises(Conflict, match="is promoted"):
        await world.operations.roll_back("swap", "too late: the alias may be changed")
    world.discovery.promotion_error = None
    await world.leader.check()
    assert await world.state() == ("PROMOTED", "")
    assert world.discovery.promoted == ["m", "m"]
    await world.leader.check()
    assert world.discovery.promoted == ["m", "m"]


async def test_a_refused_promotion_rolls_back(world: World) -> None:
    await world.running(Rollout.RAMP, Rollout.PROMOTING)
    world.discovery.promotion_error = InvalidRequest("'m' is not a chat model")
    await world.leader.check()
    assert await world.state() == ("ROLLED_BACK", "the alias cannot be changed: 'm' is not a chat model")


async def test_a_candidate_whose_permit_expires_is_rolled_back(world: World) -> None:
    await world.running(Rollout.RAMP)
    world.discovery.model = Unavailable("down")
    await world.leader.check()
    assert (await world.state())[0] == "RAMP"
    world.discovery.model = resolved(validation="v1", expires_at=1)
    await world.leader.check()
    assert await world.state() == ("ROLLED_BACK", "the candidate is 'm', which has no valid validation record")


async def test_of_two_changes_at_the_same_time_one_counts(world: World) -> None:
    stored = await world.running(Rollout.RAMP)
    first = await world.store.change(stored, "pause", numbers={}, paused=True)
    second = await world.store.change(stored, "advance", numbers={}, state=Rollout.PROMOTING)
    assert first is not None and second is None
    assert (await world.state())[0] == "RAMP"


async def test_a_repeated_advance_of_the_last_step_stays(world: World) -> None:
    await world.running(Rollout.RAMP)
    request = AdvanceRolloutRequest(name="swap", from_percent=50)
    assert (await world.operations.advance(request)).state == Rollout.PROMOTING
    assert (await world.operations.advance(request)).state == Rollout.PROMOTING


async def test_nobody_approves_without_the_record_of_principals(world: World) -> None:
    await world.store.create(normalised(DEFINITION))
    with pytest.raises(Unavailable, match="nobody can approve"):
        await world.operations.approve("swap")
