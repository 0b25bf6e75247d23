"""Reads the numbers of a rollout: results, units of the present step, shadow calls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import LiteralString

from drw.api.models.v1.experiments_pb2 import Results, ShadowCalls
from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.database import Database
from drw.models.experiments.analysis import results
from drw.models.experiments.rollouts import shadow_calls
from drw.models.experiments.rollouts.decisions import Numbers
from drw.models.experiments.rollouts.definition import CANDIDATE, CONTROL
from drw.models.experiments.rollouts.store import StoredRollout
from drw.models.experiments.store import stored_experiment
from drw.models.experiments.treatments import AliasModels

NEW_UNITS: LiteralString = "select arm, count(*) as n from exposure where experiment = %s and at >= %s group by arm"


async def numbers_of(database: Database, stored: StoredRollout, models: AliasModels | None = None) -> Numbers:
    """Return the numbers of a rollout at this time; with `models`, also whether its candidate can get traffic.

    Raises:
        Unavailable: the database or discovery does not answer.
    """
    step_at = stored.rollout.step_at.ToDatetime(UTC)
    seconds = (datetime.now(UTC) - step_at).total_seconds()
    if stored.experiment is None:
        return Numbers(Results(), ShadowCalls(), seconds)
    async with database.transaction() as connection:
        cursor = await connection.execute("select * from experiment where key = %s", (stored.experiment,))
        experiment = stored_experiment(await cursor.fetchone() or {})
        cursor = await connection.execute(NEW_UNITS, (stored.experiment, step_at))
        counts = {row["arm"]: row["n"] for row in await cursor.fetchall()}
        shadow = await shadow_calls.read(connection, stored.experiment)
    new_units = {name: counts.get(arm, 0) for arm, name in enumerate((CONTROL, CANDIDATE))}
    found = await results(database, experiment)
    return Numbers(found, shadow, seconds, new_units, await _refusal(models, stored) if models else "")


async def _refusal(models: AliasModels, stored: StoredRollout) -> str:
    rollout = stored.rollout
    try:
        await models.check_alias(rollout.alias)
    except InvalidRequest as error:
        return error.message
    reason = await models.refusal(rollout.model)
    return f"the candidate is {rollout.model!r}, {reason}" if reason else ""
