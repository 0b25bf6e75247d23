"""Builds the deletion of runs with the stores that have rows of runs."""

from __future__ import annotations

from collections.abc import Sequence

from drw.api.workflow.v1.state_pb2 import DeleteRunEventsRequest
from drw.api.workflow.v1.state_rpc import StateClient
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.workflow.orchestration.payloads.payload_store import PayloadStore
from drw.workflow.orchestration.ports import Engine
from drw.workflow.orchestration.retention.deletion import DeletedRun, RunDeletion
from drw.workflow.orchestration.settings import Settings


def build_retention(
    scope: ServiceContext,
    settings: Settings,
    database: Database,
    engine: Engine,
    state: StateClient,
    payloads: PayloadStore,
) -> RunDeletion:
    """Return the deletion of runs from all stores that have rows of them."""

    async def forget_journal(runs: Sequence[DeletedRun]) -> None:
        await engine.forget_runs([run.id for run in runs])

    async def forget_events(runs: Sequence[DeletedRun]) -> None:
        deleted = [DeleteRunEventsRequest.DeletedRun(org=run.org, desk=run.desk, run=run.id) for run in runs]
        await state.delete_run_events(DeleteRunEventsRequest(runs=deleted))

    async def forget_payloads(runs: Sequence[DeletedRun]) -> None:
        await payloads.delete([run.id for run in runs])

    return RunDeletion(
        database,
        scope.audit(),
        settings.retention_days,
        settings.retention_interval_seconds,
        [forget_journal, forget_events, forget_payloads],
    )
