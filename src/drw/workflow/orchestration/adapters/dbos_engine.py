"""The durable execution engine on DBOS, with its tables in a separate schema of PostgreSQL.

DBOS 3.4 allows one instance per process. Nothing is pickled: values are stored as JSON, and a row marked as a
pickle is rejected, because unpickling executes code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID, _serialization
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from drw.kernel.errors import Unavailable
from drw.kernel.runtime import settings
from drw.kernel.storage.database import CONNECTION_DEFAULTS
from drw.workflow.orchestration.ports import Engine, LeadershipLost, RunFunction

INTERPRETER_VERSION = "interpreter-1"
"""Version of the engine's records. The engine recovers runs of the same version only."""


class DbosEngine(Engine):
    """Runs are DBOS workflows whose only argument is the run id. Their steps are in the run journal."""

    class Settings(settings.Settings):
        """DBOS schema and executor id."""

        dsn: str
        executor: str
        idle_transaction_seconds: float = 10.0
        schema_name: str = "orchestration_engine"
        pool_size: int = 5

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._workflow: Any = None

    async def start(self, run_function: RunFunction) -> None:
        """Implement the port."""
        _disable_pickle()
        await self.migrate()
        options = f"-c idle_in_transaction_session_timeout={round(self._settings.idle_transaction_seconds * 1000)}"
        dsn = CONNECTION_DEFAULTS | conninfo_to_dict(self._settings.dsn) | {"options": options}
        url = _sqlalchemy_url(make_conninfo("", **dsn))
        DBOS(config=self._config(url))
        # The run journal bounds interruptions. DBOS would also count those of a run that only waits.
        durable = DBOS.workflow(name="run", max_recovery_attempts=None)
        self._workflow = durable(self._durable_workflow(run_function))
        DBOS.launch()  # on this thread, so that recovered runs use this thread's event loop

    async def migrate(self) -> None:
        """Create or update DBOS's tables; does nothing if they are up to date."""
        url = _sqlalchemy_url(self._settings.dsn)
        await asyncio.to_thread(DBOS.migrate, url, schema=self._settings.schema_name)

    async def start_run(self, run: str) -> None:
        """Implement the port."""
        if run in self._tasks:
            return
        with SetWorkflowID(run):  # DBOS ignores an id that it already has
            await DBOS.start_workflow_async(self._workflow, run)

    async def recover_runs(self, executor: str) -> None:
        """Implement the port."""
        await asyncio.to_thread(DBOS._recover_pending_workflows, [executor])

    async def cancel_run(self, run: str) -> None:
        """Implement the port."""
        await DBOS.cancel_workflow_async(run)
        if task := self._tasks.get(run):
            task.cancel()

    async def forget_runs(self, runs: Sequence[str]) -> None:
        """Implement the port."""
        try:
            await DBOS.delete_workflows_async(list(runs))
        except SQLAlchemyError as error:
            raise Unavailable("the records of the engine cannot be deleted", part="postgres") from error

    def active_runs(self) -> frozenset[str]:
        """Implement the port."""
        return frozenset(self._tasks)

    async def stop(self) -> None:
        """Implement the port."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()  # DBOS records nothing for a cancelled task, so that the run can be recovered
        await asyncio.gather(*tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as executor:
            await loop.run_in_executor(executor, lambda: DBOS.destroy(destroy_registry=True))
        loop.set_default_executor(ThreadPoolExecutor())  # DBOS had installed its own, which is closed now

    def _durable_workflow(self, run_function: RunFunction) -> Callable[[str], Awaitable[None]]:
        async def run(run_id: str) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks[run_id] = task
            try:
                await run_function(run_id)
            except LeadershipLost as error:
                raise asyncio.CancelledError(error.message) from None  # the only outcome that DBOS does not record
            finally:
                del self._tasks[run_id]

        return run

    def _config(self, url: str) -> DBOSConfig:
        return {
            "name": "drw-orchestration",
            "system_database_url": url,
            "dbos_system_schema": self._settings.schema_name,
            "sys_db_pool_size": self._settings.pool_size,
            "executor_id": self._settings.executor,
            "application_version": INTERPRETER_VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "run_migrations": False,
            "log_level": "CRITICAL",  # the run journal records and logs failures
        }


def _sqlalchemy_url(dsn: str) -> str:
    parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    url = URL.create(
        "postgresql+psycopg",
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        database=parts.pop("dbname", None),
        query=parts,
    )
    return url.render_as_string(hide_password=False)


def _disable_pickle() -> None:
    def refuse(*_: Any) -> Any:
        raise TypeError("pickled values are not allowed in the tables of the engine")

    for direction in ("serialize", "deserialize"):
        setattr(_serialization.DefaultSerializer, direction, refuse)
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
