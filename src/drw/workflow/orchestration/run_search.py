"""The query of a list of runs, from the filters of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from typing import Any

from drw.api.workflow.v1.orchestration_pb2 import PAUSED, QUEUED, RUNNING, ListRunsRequest, RunState
from drw.kernel import tenancy
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.sql import SQL, Composed
from drw.kernel.tenancy import Owner

QUERY = SQL(
    "select *, run_is_paused(id) as is_paused from visible_runs(%(org)s, %(desk)s, %(walls)s)"
    " where {} order by created_at desc, id desc limit %(size)s"
)


def reader(caller: Principal, desk: str) -> Principal:
    """Return the caller as a reader of another desk of its org; empty: its own.

    Raises:
        Forbidden: it is another desk, and the caller lacks "org:admin".
    """
    if not desk or desk == caller.desk:
        return caller
    tenancy.check_change(Owner(caller.org, desk))
    return replace(caller, desk=desk)


def query(caller: Principal, request: ListRunsRequest, size: int) -> tuple[Composed, dict[str, Any]]:
    """Return the query and its parameters. Runs that the caller does not see are never part of the result."""
    conditions = [SQL("true")]
    parameters: dict[str, Any] = {"org": caller.org, "desk": caller.desk, "walls": sorted(caller.walls), "size": size}
    for condition, values in _conditions(request):
        conditions.append(condition)
        parameters |= values
    return QUERY.format(SQL(" and ").join(conditions)), parameters


def _conditions(request: ListRunsRequest) -> Iterator[tuple[SQL, dict[str, Any]]]:
    if request.page_token:
        token = SQL("(created_at, id) < (select created_at, id from run where id = %(token)s)")
        yield token, {"token": request.page_token}
    if request.template:
        yield SQL("template_name = %(template)s"), {"template": request.template}
    if request.state == PAUSED:
        yield SQL("state in ('QUEUED', 'RUNNING') and run_is_paused(id)"), {}
    elif request.state:
        open_state = request.state in (QUEUED, RUNNING)
        condition = SQL("state = %(state)s and not run_is_paused(id)") if open_state else SQL("state = %(state)s")
        yield condition, {"state": RunState.Name(request.state)}
    if request.HasField("created_after"):
        yield SQL("created_at > %(after)s"), {"after": request.created_after.ToDatetime(UTC)}
    if request.HasField("created_before"):
        yield SQL("created_at < %(before)s"), {"before": request.created_before.ToDatetime(UTC)}
    if request.input:
        yield SQL("lower(inputs::text) like %(input)s"), {"input": _pattern(request.input)}
    if request.error:
        yield SQL("error <> '' and lower(error) like %(error)s"), {"error": _pattern(request.error)}


def _pattern(text: str) -> str:
    """Return the pattern of texts that contain this one."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text.lower()) + "%"
