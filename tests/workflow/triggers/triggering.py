"""Triggers on the database of a test, which get events from the test. Nothing executes the runs that they start."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
from google.protobuf.message import Message
from psycopg.rows import dict_row

from drw.api.events.v1.documents_pb2 import DocumentIndexed
from drw.api.events.v1.workflows_pb2 import RunEnded
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.api.workflow.v1.triggers_pb2 import CreateTriggerRequest, Firing, Trigger, TriggerSpec
from drw.catalog import consumed_by
from drw.events.connection import connect
from drw.events.consumer import Consumer
from drw.events.event import Event
from drw.events.ports import Delivery
from drw.events.publisher import create_tables
from drw.events.schemas import event_type_of
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message, to_json
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.killswitch.watch import KillList
from drw.workflow.orchestration.payloads.payload_store import Limits, PayloadStore
from drw.workflow.orchestration.permissions import PresentPermissions
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.settings import Settings
from drw.workflow.orchestration.triggers.dispatcher import TriggerDispatcher
from drw.workflow.orchestration.triggers.journal import TriggerJournal
from drw.workflow.orchestration.triggers.operations import TriggerOperations
from drw.workflow.orchestration.triggers.store import TriggerStore
from support.hosting import hosted

INPUTS = {"files": ["${event.data.file}"], "title": "${event.data.collection}"}
_numbers = itertools.count(1)


def event(message: Message, owner: Principal, **attributes: Any) -> Event:
    """Return an event of a desk with a new id."""
    of = event_type_of(message)
    id_ = attributes.pop("id", f"event-{next(_numbers)}")
    values: dict[str, Any] = {"subject": f"test/{id_}", "time": datetime.now(UTC), "org": owner.org, "desk": owner.desk}
    return Event(
        id=id_,
        type=of.type,
        source=f"//drw/{of.publisher}",
        key=id_,
        schema=of.schema,
        data=to_json(message),
        **values | attributes,
    )


def indexed(owner: Principal, file: str = "file-0", collection: str = "vs_1", **attributes: Any) -> Event:
    """Return the event of an indexed file."""
    return event(DocumentIndexed(file=file, collection=collection), owner, **attributes)


def ended(owner: Principal, run: str = "run_x", state: str = "failed", **attributes: Any) -> Event:
    """Return the event of an ended run."""
    return event(RunEnded(run=run, template="digest", state=state), owner, **attributes)


@dataclass
class Triggering:
    """The consumer, the dispatcher and the operations of triggers."""

    profile: Profile
    host: Host
    database: Database
    caller: Principal
    kills: KillList
    preparation: Preparation
    operations: TriggerOperations
    consumer: Consumer
    dispatcher: TriggerDispatcher

    async def create(self, name: str = "t", principal: Principal | None = None, **spec: Any) -> Trigger:
        values = spec.pop("inputs", INPUTS)
        message = TriggerSpec(**{"template": "digest", "event": "document.indexed"} | spec)
        message.inputs.CopyFrom(json_message(values))
        with acting_for(principal or self.caller):
            return await self.operations.create(CreateTriggerRequest(name=name, spec=message))

    async def get(self, name: str = "t", principal: Principal | None = None) -> Trigger:
        with acting_for(principal or self.caller):
            return await self.operations.get(name)

    async def receive(self, *events: Event) -> None:
        """Deliver events, and start the runs that can start."""
        await self.receive_only(*events)
        await self.settle()

    async def receive_only(self, *events: Event) -> None:
        await self.consumer.apply([Delivery(event, b"", None) for event in events])

    async def settle(self) -> None:
        while await self.dispatcher.step():
            pass

    def due(self) -> None:
        """Let triggers that were postponed be due."""
        self.rows("update run_trigger set due_at = now()")

    def rows(self, query: str, *args: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.profile.postgres, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("set search_path to orchestration")
            cursor = connection.execute(query.encode(), args)
            return cursor.fetchall() if cursor.description else []

    def started(self) -> list[str]:
        """Return the events whose runs were started, in this order."""
        return [row["event"] for row in self.rows("select event from run where trigger <> '' order by created_at")]

    def end_runs(self) -> None:
        """Let all runs succeed."""
        self.rows("update run set state = 'SUCCEEDED', ended_at = now() where state in ('QUEUED', 'RUNNING')")

    async def outcomes(self, name: str = "t") -> list[str]:
        """Return the outcomes of the latest firings, oldest first."""
        return [Firing.Outcome.Name(firing.outcome) for firing in reversed((await self.get(name)).firings)]

    def audit(self, action: str) -> list[dict[str, Any]]:
        records = [orjson.loads(row["record"]) for row in self.rows("select record::text from audit.inbox")]
        return [record for record in records if record["action"] == action]


@asynccontextmanager
async def triggering(
    profile: Profile, caller: Principal, services: tuple[str, ...] = ("templates",), **settings: Any
) -> AsyncIterator[Triggering]:
    """Build triggers on real templates, and on real authentication if it is one of the services."""
    async with hosted(profile, list(services)) as host:
        database = Database(profile.postgres, "orchestration")
        await database.start("drw.workflow.orchestration")
        await create_tables(database)
        audit = host.audit("orchestration")
        chosen = Settings(**settings)
        limits = Limits(chosen.max_payload_bytes, chosen.max_run_payload_bytes, chosen.max_desk_payload_bytes)
        payloads = PayloadStore(database, profile.data / "payloads", limits)
        runs = Runs(database, audit, chosen.max_open_runs, payloads)
        kills = KillList(host.client(RequestRouterClient) if "request_router" in services else None, profile.data / "k")  # type: ignore[arg-type]
        authentication = host.client(AuthenticationClient) if "authentication" in services else None
        permissions, templates = PresentPermissions(authentication), host.client(TemplatesClient)
        preparation = Preparation(permissions, templates, kills)
        journal = TriggerJournal(database, audit, runs, chosen)
        dispatcher = TriggerDispatcher(database, journal, preparation)
        store = TriggerStore(database, audit, chosen.max_triggers)
        operations = TriggerOperations(chosen, store, permissions, templates)
        handlers = {of.type: journal.record for of in consumed_by("orchestration")}
        bus = connect(profile)
        consumer = Consumer("orchestration", database, bus, handlers)
        try:
            yield Triggering(profile, host, database, caller, kills, preparation, operations, consumer, dispatcher)
        finally:
            await bus.close()
            await database.stop()
