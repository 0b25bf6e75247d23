"""Connects a process to the event bus that the profile selects, and builds the consumers of services."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from drw.catalog import consumed_by
from drw.events.consumer import Consumer, Handler
from drw.events.ports import EventBus
from drw.events.publisher import create_tables
from drw.kernel.errors import ConfigError
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database


def connect(profile: Profile) -> EventBus:
    """Return the bus of the profile. Imports only the client of its broker.

    Raises:
        ConfigError: the client of the broker is not installed.
    """
    name = profile.bus.adapter
    try:
        adapter: Any = importlib.import_module(f"drw.events.adapters.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"bus.adapter is {name!r}, whose client {error.name!r} is not installed") from error
    bus: EventBus = adapter.connect(profile)
    return bus


async def consume(scope: ServiceContext, database: Database, handlers: Mapping[str, Handler]) -> Consumer:
    """Consume events in the background, with a handler for each name of a type, as in `run.ended`.

    A handler applies an event in the transaction of its connection, and only there, so that each event counts once.

    Raises:
        ConfigError: the catalog does not list the service as a consumer of exactly these types.
    """
    types = {event.name: event.type for event in consumed_by(scope.name)}
    if handlers.keys() != types.keys():
        difference = ", ".join(sorted(handlers.keys() ^ types.keys()))
        raise ConfigError(f"{scope.name!r} and its rows in EVENT_TYPES of src/drw/catalog.py differ: {difference}")
    bus = connect(scope.profile)
    await create_tables(database)
    scope.on_stop(bus.close)
    consumer = Consumer(scope.name, database, bus, {types[name]: handler for name, handler in handlers.items()})
    scope.background(consumer.run)
    scope.background(consumer.redrive)
    return consumer
