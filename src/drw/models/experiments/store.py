"""Experiments in PostgreSQL: definitions and states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from drw.api.models.v1.experiments_pb2 import Experiment
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import from_json, to_json
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.row_times import set_times
from drw.kernel.storage.sql import Jsonb
from drw.models.experiments.settings import Settings

MAX_EXPERIMENTS = 200
"""Maximum number of experiments of a desk."""
DEFINITION = ("description", "arms", "metrics", "unit", "traffic_percent", "alpha", "alias")


class ExperimentNotFound(NotFound):
    """The desk has no experiment of this name, or the caller is outside of its walls."""

    def __init__(self, name: str) -> None:
        message = f"the desk has no experiment {name!r}; `drw experiments list` lists them"
        super().__init__(message, param="name")


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """An experiment with its key in the database."""

    key: int
    org: str
    desk: str
    experiment: Experiment

    @property
    def running(self) -> bool:
        """Whether units are assigned and recorded."""
        return self.experiment.state == Experiment.RUNNING


class ExperimentStore:
    """Reads and changes experiments. Each change leaves an audit record in the same transaction."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def create(self, caller: Principal, definition: Experiment, walls: list[str]) -> StoredExperiment:
        """Store a draft.

        Raises:
            Conflict: the desk has an experiment of this name.
            InvalidRequest: the desk has too many experiments.
        """
        fields = {name: value for name, value in to_json(definition).items() if name in DEFINITION}
        async with self._database.transaction() as connection:
            await _lock_desk(connection, caller)
            cursor = await connection.execute(
                "select count(*) as n, count(*) filter (where name = %s) as same from experiment"
                " where org = %s and desk = %s",
                (definition.name, caller.org, caller.desk),
            )
            counts = await cursor.fetchone() or {}
            if counts["same"]:
                raise Conflict(f"the desk already has an experiment {definition.name!r}", param="name")
            if counts["n"] >= MAX_EXPERIMENTS:
                raise InvalidRequest(f"the desk has {counts['n']} experiments, the maximum: delete one first")
            cursor = await connection.execute(
                "insert into experiment (org, desk, name, walls, definition, alias) values (%s, %s, %s, %s, %s, %s)"
                " returning *",
                (caller.org, caller.desk, definition.name, walls, Jsonb(fields), definition.alias),
            )
            stored = stored_experiment(await cursor.fetchone() or {})
            await self._record(connection, "create", stored, {"definition": fields, "walls": walls})
        return stored

    async def page(self, caller: Principal, after: str, size: int) -> list[StoredExperiment]:
        """Return up to `size` experiments that the caller sees, by name, after a name."""
        rows = await self._database.all(
            "select * from visible_experiments(%s, %s, %s) where name > %s order by name limit %s",
            *(caller.org, caller.desk, sorted(caller.walls), after, size),
        )
        return [stored_experiment(row) for row in rows]

    async def get(self, caller: Principal, name: str) -> StoredExperiment:
        """Return an experiment.

        Raises:
            ExperimentNotFound: there is none that the caller sees.
        """
        row = await self._database.one(
            "select * from visible_experiments(%s, %s, %s) where name = %s",
            *(caller.org, caller.desk, sorted(caller.walls), name),
        )
        if row is None:
            raise ExperimentNotFound(name)
        return stored_experiment(row)

    async def running(self) -> list[StoredExperiment]:
        """Return the running experiments of all desks."""
        query: LiteralString = "select * from experiment where state = 'RUNNING' and rollout = '' order by key"
        return [stored_experiment(row) for row in await self._database.all(query)]

    async def start(self, caller: Principal, name: str, limits: Settings) -> StoredExperiment:
        """Start a draft; a running experiment stays as it is.

        Raises:
            Conflict: it was stopped, or another experiment of its alias runs.
            InvalidRequest: too many experiments of aliases run.
        """
        async with self._database.transaction() as connection:
            stored = await _locked(connection, caller, name)
            if stored.experiment.state == Experiment.STOPPED:
                message = f"{name!r} was stopped: create another experiment, so that units of both are not mixed"
                raise Conflict(message, param="name")
            if stored.running:
                return stored
            if stored.experiment.alias:
                await _check_alias(connection, stored, limits)
            query: LiteralString = (
                "update experiment set state = 'RUNNING', started_at = now() where key = %s returning *"
            )
            stored = stored_experiment(await (await connection.execute(query, (stored.key,))).fetchone() or {})
            await self._record(connection, "start", stored, {})
        return stored

    async def stop(self, key: int, reason: str) -> StoredExperiment | None:
        """Stop a running experiment; return None if it is not running."""
        async with self._database.transaction() as connection:
            query: LiteralString = (
                "update experiment set state = 'STOPPED', stopped_at = now(), stop_reason = %s"
                " where key = %s and state = 'RUNNING' returning *"
            )
            if (row := await (await connection.execute(query, (reason, key))).fetchone()) is None:
                return None
            stored = stored_experiment(row)
            await self._record(connection, "stop", stored, {"reason": reason})
        return stored

    async def delete(self, caller: Principal, name: str) -> None:
        """Delete an experiment with its exposures and outcomes.

        Raises:
            Conflict: it is running.
        """
        async with self._database.transaction() as connection:
            stored = await _locked(connection, caller, name)
            if stored.running:
                raise Conflict(f"{name!r} is running: stop it first", param="name")
            await connection.execute("delete from experiment where key = %s", (stored.key,))
            await self._record(connection, "delete", stored, {})

    async def _record(
        self, connection: Connection, action: str, stored: StoredExperiment, details: dict[str, Any]
    ) -> None:
        resource = f"experiment/{stored.experiment.name}"
        await self._audit.record(f"experiment.{action}", resource, details=details, connection=connection)


async def _locked(connection: Connection, caller: Principal, name: str) -> StoredExperiment:
    cursor = await connection.execute(
        "select * from experiment where org = %s and desk = %s and inside(walls, %s) and name = %s for update",
        (caller.org, caller.desk, sorted(caller.walls), name),
    )
    if (row := await cursor.fetchone()) is None:
        raise ExperimentNotFound(name)
    return stored_experiment(row)


async def _check_alias(connection: Connection, stored: StoredExperiment, limits: Settings) -> None:
    """Check that an experiment of an alias can run beside those that run."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended('experiments/aliases', 0))")
    query: LiteralString = """
        select count(*) as total, count(*) filter (where org = %(org)s and desk = %(desk)s) as of_desk,
            min(name) filter (
                where org = %(org)s and desk = %(desk)s and alias = %(alias)s and walls = %(walls)s
            ) as same
        from experiment where state = 'RUNNING' and alias <> '' and rollout = ''
        """
    experiment = stored.experiment
    parameters = {"org": stored.org, "desk": stored.desk, "alias": experiment.alias, "walls": list(experiment.walls)}
    counts = await (await connection.execute(query, parameters)).fetchone() or {}
    if counts["same"]:
        message = f"the experiment {counts['same']!r} of the alias {experiment.alias!r} is running: stop it first"
        raise Conflict(message, param="alias")
    if counts["of_desk"] >= limits.max_alias_experiments or counts["total"] >= limits.max_alias_experiments_total:
        scope = "desk has" if counts["of_desk"] >= limits.max_alias_experiments else "desks have"
        message = f"the {scope} the maximum number of running experiments of aliases: stop one first"
        raise InvalidRequest(message, param="alias")


async def _lock_desk(connection: Connection, caller: Principal) -> None:
    """Make creations of one desk wait for each other, so that the count holds."""
    text = f"experiments/{caller.org}/{caller.desk}"
    await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (text,))


def stored_experiment(row: dict[str, Any]) -> StoredExperiment:
    """Return the experiment of a row."""
    experiment = from_json(row["definition"], Experiment)
    experiment.name = row["name"]
    # With the key, so that an experiment that is created again under its name assigns its units anew.
    experiment.seed = f"{row['name']}/{row['key']}"
    experiment.walls.extend(row["walls"])
    experiment.state = Experiment.State.Value(row["state"])  # type: ignore[assignment]
    experiment.stop_reason = row["stop_reason"]
    set_times(experiment, row, "created_at", "started_at", "stopped_at")
    return StoredExperiment(row["key"], row["org"], row["desk"], experiment)
