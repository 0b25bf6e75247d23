"""Builds the batches of the serving service: routes, and the worker of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.change_notifications import ChangeNotifications
from drw.kernel.storage.database import Database
from drw.killswitch.watch import KillList
from drw.models.serving.batches.api import BatchRoutes
from drw.models.serving.batches.batch import NEW_WORK
from drw.models.serving.batches.endpoints import BatchEndpoint
from drw.models.serving.batches.files import BatchFiles
from drw.models.serving.batches.metrics import update_gauges
from drw.models.serving.batches.permissions import PresentPermissions
from drw.models.serving.batches.queues.job_queue import JobQueue
from drw.models.serving.batches.queues.line_queue import LineQueue
from drw.models.serving.batches.store import BatchStore
from drw.models.serving.batches.worker.execution import LineRunner
from drw.models.serving.batches.worker.output import OutputWriter
from drw.models.serving.batches.worker.validation import Validator
from drw.models.serving.batches.worker.worker import BatchWorker
from drw.models.serving.settings import BatchSettings

SWEEP_SECONDS = 3600.0


def build(
    scope: ServiceContext,
    settings: BatchSettings,
    database: Database,
    served: Mapping[str, BatchEndpoint],
    kills: KillList,
) -> BatchStore | None:
    """Add batches to the service, and return them; None: the profile has no documents service for their files."""
    if not scope.has("documents"):
        return None
    audit = scope.audit()
    authentication = scope.client(AuthenticationClient) if scope.has("authentication") else None
    permissions = PresentPermissions(authentication)
    files = BatchFiles(scope.client(DocumentsClient))
    scope.on_scrape(partial(update_gauges, database, tuple(served)))
    store = BatchStore(database, audit, settings.max_active_per_org)
    scope.routes += BatchRoutes(store, files, permissions, served, settings.max_input_bytes).routes()

    async def delete_old_batches() -> None:
        while True:
            await store.delete_old(settings.retention_days)
            await asyncio.sleep(SWEEP_SECONDS)

    scope.background(delete_old_batches)
    if not settings.concurrent:
        return store
    new_work = ChangeNotifications(database, NEW_WORK)
    jobs, lines = JobQueue(database, audit), LineQueue(database)
    worker = BatchWorker(
        database,
        new_work,
        jobs,
        lines,
        Validator(jobs, files, served, permissions, settings),
        OutputWriter(database, jobs, files),
        LineRunner(lines, served, permissions, kills, audit, settings.max_output_bytes),
        settings.concurrent,
    )
    scope.background(new_work.listen)
    scope.background(worker.work)
    return store
