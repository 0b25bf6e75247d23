"""Builds the parts of triggers and connects them with the event bus."""

from __future__ import annotations

from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.catalog import consumed_by
from drw.events.connection import consume
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.workflow.orchestration.permissions import PresentPermissions
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.settings import Settings
from drw.workflow.orchestration.triggers.dispatcher import TriggerDispatcher
from drw.workflow.orchestration.triggers.journal import TriggerJournal
from drw.workflow.orchestration.triggers.operations import TriggerOperations
from drw.workflow.orchestration.triggers.store import TriggerStore


async def build_triggers(
    scope: ServiceContext,
    settings: Settings,
    database: Database,
    runs: Runs,
    preparation: Preparation,
    permissions: PresentPermissions,
    templates: TemplatesClient,
) -> TriggerOperations:
    """Build triggers; consume events and start their runs in the background."""
    audit = scope.audit()
    journal = TriggerJournal(database, audit, runs, settings)
    await consume(scope, database, {event.name: journal.record for event in consumed_by(scope.name)})
    dispatcher = TriggerDispatcher(database, journal, preparation)
    scope.background(dispatcher.listen)
    scope.background(dispatcher.run)
    store = TriggerStore(database, audit, settings.max_triggers)
    return TriggerOperations(settings, store, permissions, templates)
