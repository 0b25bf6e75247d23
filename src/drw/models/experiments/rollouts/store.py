"""Rollouts in PostgreSQL. Each change leaves a transition and an audit record in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from drw.api.models.v1.experiments_pb2 import Rollout, RolloutTransition, RoutedRollout
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc.context import caller
from drw.kernel.rpc.json_messages import from_json, json_message, to_json
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.row_times import set_times
from drw.kernel.storage.sql import Jsonb
from drw.models.experiments.rollouts.definition import comparison
from drw.models.experiments.store import DEFINITION as EXPERIMENT_DEFINITION

MAX_ROLLOUTS = 1000
HISTORY = 100
RUNNING = (Rollout.SHADOW, Rollout.RAMP, Rollout.PROMOTING)
ENDED = (Rollout.PROMOTED, Rollout.ROLLED_BACK, Rollout.CANCELLED)
DEFINITION = (
    *("description", "alias", "model", "unit", "steps", "step_seconds", "step_units", "shadow_percent"),
    *("max_shadow_failures_percent", "guardrails"),
)


class RolloutNotFound(NotFound):
    """There is no rollout of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no rollout {name!r}; `drw rollouts list` lists them", param="name")


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A rollout with its key, and the key of the experiment that compares its groups from the start on."""

    key: int
    experiment: int | None
    rollout: Rollout
    org: str
    """Of a candidate that is a registered version: the org that owns it."""


class RolloutStore:
    """Reads and changes rollouts."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def create(self, definition: Rollout, org: str = "") -> StoredRollout:
        """Store a draft; `org` owns its candidate, or is empty.

        Raises:
            Conflict: there is a rollout of this name.
            InvalidRequest: there are too many rollouts.
        """
        fields = {name: value for name, value in to_json(definition).items() if name in DEFINITION}
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(hashtextextended('experiments/rollouts', 0))")
            cursor = await connection.execute(
                "select count(*) filter (where ended_at is null) as n, count(*) filter (where name = %s) as same"
                " from rollout",
                (definition.name,),
            )
            counts = await cursor.fetchone() or {}
            if counts["same"]:
                raise Conflict(f"there is a rollout {definition.name!r} already", param="name")
            if counts["n"] >= MAX_ROLLOUTS:
                raise InvalidRequest(f"{counts['n']} rollouts have not ended, which is the maximum")
            cursor = await connection.execute(
                "insert into rollout (name, definition, alias, created_by, org) values (%s, %s, %s, %s, %s)"
                " returning *",
                (definition.name, Jsonb(fields), definition.alias, caller().key, org),
            )
            stored = _stored(await cursor.fetchone() or {})
            await self._record(connection, "create", stored, "", {"definition": fields})
        return stored

    async def page(self, after: str, size: int) -> list[StoredRollout]:
        """Return up to `size` rollouts by name, after a name."""
        query: LiteralString = "select * from rollout where name > %s order by name limit %s"
        return [_stored(row) for row in await self._database.all(query, after, size)]

    async def get(self, name: str) -> StoredRollout:
        """Return a rollout.

        Raises:
            RolloutNotFound: there is none of this name.
        """
        if (row := await self._database.one("select * from rollout where name = %s", name)) is None:
            raise RolloutNotFound(name)
        return _stored(row)

    async def running(self) -> list[StoredRollout]:
        """Return the running rollouts."""
        query: LiteralString = "select * from rollout where state in ('SHADOW', 'RAMP', 'PROMOTING') order by key"
        return [_stored(row) for row in await self._database.all(query)]

    async def routed(self) -> list[RoutedRollout]:
        """Return the running rollouts for serving."""
        return [_routed(stored) for stored in await self.running() if stored.experiment is not None]

    async def change(
        self, stored: StoredRollout, action: str, *, reason: str = "", numbers: Mapping[str, Any], **fields: Any
    ) -> StoredRollout | None:
        """Change a rollout; return None if it is not as it was read, since another change came first.

        `fields` are of the message `Rollout`: state, percent, paused, approved_by.
        """
        async with self._database.transaction() as connection:
            cursor = await connection.execute("select * from rollout where key = %s for no key update", (stored.key,))
            row = await cursor.fetchone()
            if row is None or _stored(row).rollout != stored.rollout:
                return None
            if fields.get("state") in RUNNING and stored.experiment is None:
                row["experiment"] = await self._begin_comparison(connection, stored.rollout)
            row |= {**fields, "state": Rollout.State.Name(fields.get("state", stored.rollout.state))}
            changed = await self._update(connection, row, reason, ended=fields.get("state") in ENDED)
            await self._record(connection, action, changed, reason, numbers)
        return changed

    async def history(self, connection: Connection, key: int) -> list[RolloutTransition]:
        """Return the newest transitions of a rollout, newest first."""
        query: LiteralString = "select * from rollout_transition where rollout = %s order by id desc limit %s"
        return [_transition(row) for row in await (await connection.execute(query, (key, HISTORY))).fetchall()]

    async def _update(self, connection: Connection, row: dict[str, Any], reason: str, *, ended: bool) -> StoredRollout:
        cursor = await connection.execute(
            """
            update rollout set step_at = case when state <> %(state)s or percent <> %(percent)s then clock_timestamp()
                    else step_at end,
                state = %(state)s, percent = %(percent)s, paused = %(paused)s, approved_by = %(approved_by)s,
                reason = %(new_reason)s, experiment = %(experiment)s,
                ended_at = case when %(ended)s then clock_timestamp() end
            where key = %(key)s returning *
            """,
            row | {"new_reason": reason, "ended": ended},
        )
        changed = _stored(await cursor.fetchone() or {})
        if ended and changed.experiment is not None:
            await connection.execute(
                "update experiment set state = 'STOPPED', stopped_at = now() where key = %s", (changed.experiment,)
            )
        return changed

    async def _begin_comparison(self, connection: Connection, rollout: Rollout) -> int:
        """Create the experiment of a rollout that starts.

        Raises:
            Conflict: another rollout of the alias runs.
        """
        await connection.execute("select pg_advisory_xact_lock(hashtextextended('experiments/rollouts', 0))")
        cursor = await connection.execute(
            "select name from rollout where alias = %s and state in ('SHADOW', 'RAMP', 'PROMOTING')", (rollout.alias,)
        )
        if other := await cursor.fetchone():
            message = f"the rollout {other['name']!r} of the alias {rollout.alias!r} is running: wait, or roll it back"
            raise Conflict(message, param="name")
        fields = to_json(comparison(rollout))
        definition = {name: value for name, value in fields.items() if name in EXPERIMENT_DEFINITION}
        cursor = await connection.execute(
            "insert into experiment (org, desk, name, walls, definition, alias, rollout, state, started_at)"
            " values ('', '', %(name)s, '{}', %(definition)s, %(alias)s, %(name)s, 'RUNNING', now()) returning key",
            {"name": rollout.name, "definition": Jsonb(definition), "alias": rollout.alias},
        )
        return int((await cursor.fetchone() or {})["key"])

    async def _record(
        self, connection: Connection, action: str, stored: StoredRollout, reason: str, numbers: Mapping[str, Any]
    ) -> None:
        rollout = stored.rollout
        details = {
            "reason": reason,
            "state": Rollout.State.Name(rollout.state),
            "percent": rollout.percent,
            "alias": rollout.alias,
            "model": rollout.model,
            **numbers,
        }
        await self._audit.record(f"rollout.{action}", f"rollout/{rollout.name}", details=details, connection=connection)
        await connection.execute(
            "insert into rollout_transition (rollout, action, state, percent, actor, reason, numbers)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (stored.key, action, details["state"], rollout.percent, caller().key, reason, Jsonb(dict(numbers))),
        )


def _stored(row: dict[str, Any]) -> StoredRollout:
    rollout = from_json(row["definition"], Rollout)
    for name in ("name", "percent", "paused", "reason", "created_by", "approved_by"):
        setattr(rollout, name, row[name])
    rollout.state = Rollout.State.Value(row["state"])  # type: ignore[assignment]
    set_times(rollout, row, "created_at", "step_at", "ended_at")
    return StoredRollout(row["key"], row["experiment"], rollout, row["org"])


def _routed(stored: StoredRollout) -> RoutedRollout:
    rollout = stored.rollout
    return RoutedRollout(
        key=stored.experiment or 0,
        name=rollout.name,
        alias=rollout.alias,
        model=rollout.model,
        unit=rollout.unit,
        seed=f"rollout/{rollout.name}/{stored.key}",
        percent=rollout.percent,
        shadow_percent=rollout.shadow_percent,
    )


def _transition(row: dict[str, Any]) -> RolloutTransition:
    transition = RolloutTransition(
        id=row["id"],
        action=row["action"],
        state=row["state"],
        percent=row["percent"],
        actor=row["actor"],
        reason=row["reason"],
        numbers=json_message(row["numbers"]),
    )
    transition.at.FromDatetime(row["at"])
    return transition
