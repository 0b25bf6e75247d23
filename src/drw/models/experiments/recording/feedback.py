"""Feedback: values of metrics for a call, by the id of its response."""

from __future__ import annotations

from drw.api.models.v1.experiments_pb2 import Experiment, Metric, RecordFeedbackRequest, RecordFeedbackResponse
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection, Database
from drw.models.experiments.recording.call_events import response_hash
from drw.models.experiments.recording.recorder import check_bounds
from drw.models.experiments.recording.unit_writes import Value, add_ids, add_values
from drw.models.experiments.store import StoredExperiment, stored_experiment


async def record(database: Database, caller: Principal, request: RecordFeedbackRequest) -> RecordFeedbackResponse:
    """Record a value for the unit of a call; the first value of a metric for a call counts.

    Raises:
        NotFound: no running experiment that the caller sees has this call, or the caller is outside of its walls.
        InvalidRequest: the experiment has no such metric, or the value is out of bounds.
    """
    response = response_hash(request.response_id)
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "select v.*, c.unit from call_event c join visible_experiments(%s, %s, %s) v on v.key = c.experiment"
            " where c.response = %s and v.state = 'RUNNING' and inside(c.walls, %s) for no key update of c",
            (caller.org, caller.desk, sorted(caller.walls), response, sorted(caller.walls)),
        )
        if (row := await cursor.fetchone()) is None:
            message = f"no running experiment of the desk has the call {request.response_id!r}"
            raise NotFound(message, param="response_id")
        stored = stored_experiment(row)
        added = await _record(connection, stored, row["unit"], response, request)
    return RecordFeedbackResponse(experiments=[stored.experiment.name], duplicate=not added)


async def _record(
    connection: Connection, stored: StoredExperiment, unit: bytes, response: bytes, request: RecordFeedbackRequest
) -> bool:
    number = _metric(stored.experiment, request.metric)
    check_bounds(stored.experiment.metrics[number], request.value, "value")
    if not await add_ids(connection, stored.key, [f"feedback/{response.hex()}/{request.metric}"]):
        return False
    await add_values(connection, stored, [Value(number, unit, request.value)])
    return True


def _metric(experiment: Experiment, name: str) -> int:
    names = [metric.name for metric in experiment.metrics if metric.source == Metric.API]
    if name not in names:
        message = f"metric is {name!r}; the experiment takes feedback for: {', '.join(names) or 'nothing'}"
        raise InvalidRequest(message, param="metric")
    return [metric.name for metric in experiment.metrics].index(name)
