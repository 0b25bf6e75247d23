"""Conditions of a query for dead letters, from the fields of a request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from drw.api.workflow.v1.error_handling_pb2 import DeadLetter, DeadLetterFilter, ListDeadLettersRequest
from drw.api.workflow.v1.orchestration_pb2 import FailureClass
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.sql import SQL, Composed

Condition = tuple[SQL, dict[str, Any]]

VISIBLE = "org = %(org)s and desk = %(desk)s and (not walled or inside(walls, %(caller_walls)s))"
"""Letters and redrives that a caller sees; see `tenant`."""


def tenant(caller: Principal) -> dict[str, Any]:
    """Return the parameters of `VISIBLE`."""
    return {"org": caller.org, "desk": caller.desk, "caller_walls": sorted(caller.walls)}


def of_list(caller: Principal, request: ListDeadLettersRequest) -> tuple[Composed, dict[str, Any]]:
    """Return the condition of a list with its parameters."""
    conditions = list(_conditions(request))
    if request.state:
        conditions.append((SQL("state = %(state)s"), {"state": DeadLetter.State.Name(request.state)}))
    return _joined(caller, conditions)


def of_open(caller: Principal, request: DeadLetterFilter) -> tuple[Composed, dict[str, Any]]:
    """Return the condition for open letters with its parameters.

    Raises:
        InvalidRequest: no field is set, which would select all letters.
    """
    conditions = list(_conditions(request))
    if request.ids:
        conditions.append((SQL("id = any(%(ids)s)"), {"ids": list(request.ids)}))
    if not conditions:
        raise InvalidRequest("the filter is empty: set at least one field, such as group", param="filter")
    return _joined(caller, [*conditions, (SQL("state = 'OPEN'"), {})])


def _joined(caller: Principal, conditions: list[Condition]) -> tuple[Composed, dict[str, Any]]:
    parameters = tenant(caller)
    for _, values in conditions:
        parameters |= values
    return SQL(" and ").join([SQL(VISIBLE), *(condition for condition, _ in conditions)]), parameters


def _conditions(request: ListDeadLettersRequest | DeadLetterFilter) -> Iterator[Condition]:
    if request.group:
        yield SQL("group_id = %(group)s"), {"group": request.group}
    if request.template:
        yield SQL("template = %(template)s"), {"template": request.template}
    if request.step:
        yield SQL("(step = %(step)s or node = %(step)s)"), {"step": request.step}
    if request.failure_class:
        yield SQL("failure_class = %(class)s"), {"class": FailureClass.Name(request.failure_class)}
    if request.error:
        yield SQL("strpos(lower(error), lower(%(error)s)) > 0"), {"error": request.error}
    if request.HasField("failed_after"):
        yield SQL("failed_at > %(after)s"), {"after": request.failed_after.ToDatetime(UTC)}
    if request.HasField("failed_before"):
        yield SQL("failed_at < %(before)s"), {"before": request.failed_before.ToDatetime(UTC)}
