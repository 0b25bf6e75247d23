"""Fixtures of the event bus: a broker for each adapter, and a database with the outbox and the inbox."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from drw.events.publisher import create_tables
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from events.brokers import BROKERS, KAFKA, Broker
from events.brokers import broker as running_broker


@pytest.fixture(params=BROKERS)
async def broker(request: pytest.FixtureRequest, profile: Profile) -> AsyncIterator[Broker]:
    """An empty broker. Kafka itself is used if KAFKA_BOOTSTRAP has its address."""
    if request.param == "kafka" and not KAFKA:
        pytest.skip("KAFKA_BOOTSTRAP is not set")
    async with running_broker(request.param, profile) as running:
        yield running


@pytest.fixture
async def tables(profile: Profile) -> AsyncIterator[Database]:
    """A database with the tables of the event bus."""
    database = Database(profile.postgres, "test", pool_size=8)
    await database.start("drw.events")
    await create_tables(database)
    yield database
    await database.stop()
