"""The state that serving gets: running experiments and rollouts, and nothing while exposures pile up."""

from __future__ import annotations

from contextlib import aclosing

import orjson

from drw.api.models.v1.experiments_pb2 import Routing
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database
from drw.models.experiments.recording.call_events import CallEvents
from drw.models.experiments.recording.recorder import Recorder
from drw.models.experiments.rollouts.store import RolloutStore
from drw.models.experiments.routing_feed import RoutingFeed
from drw.models.experiments.store import ExperimentStore

ARMS = [{"name": "control", "weight": 1}, {"name": "other", "weight": 1, "value": "secret"}]
FIELDS = {"alias": "fast", "unit": "user", "arms": ARMS}


async def test_nothing_is_routed_while_too_many_exposures_wait(profile: Profile) -> None:
    database, inbox = Database(profile.postgres, "experiments"), Database(profile.postgres, "audit")
    await inbox.start("drw.kernel.storage")
    await database.start("drw.models.experiments")
    try:
        audit = AuditWriter(inbox, "experiments")
        events = CallEvents(database, Recorder(database, Clock(), 1000), 60, 2)
        store, rollouts = ExperimentStore(database, audit), RolloutStore(database, audit)
        feed = RoutingFeed(database, store, rollouts, events, 60, clock=lambda: 1000.5)
        for org, kept in (("acme", "RUNNING"), ("beta", "STOPPED"), ("gamma", "DRAFT")):
            await database.all(
                "insert into experiment (org, desk, name, walls, definition, alias, state)"
                " values (%s, 'rates', 'swap', '{}', %s, 'fast', %s) returning key",
                *(org, orjson.dumps(FIELDS).decode(), kept),
            )

        async def state() -> Routing:
            await feed.refresh()
            async with aclosing(feed.watch()) as states:  # type: ignore[type-var]
                return await anext(states)

        routing = await state()
        assert [one.org for one in routing.experiments] == ["acme"] and routing.expires_at == 1060
        assert "secret" not in str(routing)  # values of flags are not for serving
        event = orjson.dumps({"experiment": 1, "not_assigned": 1}).decode()
        for _ in range(2):
            await database.run("insert into audit.outbox (topic, body) values ('experiments', %s)", event)
        assert not (await state()).experiments
        assert await events.consume() == 2
        assert len((await state()).experiments) == 1
    finally:
        await database.stop()
        await inbox.stop()
