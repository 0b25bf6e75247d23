"""Requests for redrives: stored once for each request id, with the letters that they select."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import uuid4

import orjson

from drw.api.workflow.v1.error_handling_pb2 import RedriveDeadLettersRequest
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import SQL
from drw.workflow.error_handling import letter_filter
from drw.workflow.error_handling.letter_filter import VISIBLE, tenant
from drw.workflow.error_handling.letters import Row, described, lock_desk
from drw.workflow.error_handling.redrives.queue import CHANNEL, put_back

MAX_LETTERS = 10_000
MAX_INPUT_BYTES = 64 * 1024
DEFAULT_RUNS_PER_MINUTE = 60

GROUPS_OF = """
select redrive_group.*, (select count(*)::int from redrive_item item
    where item.redrive = redrive_group.redrive and item.group_id = redrive_group.group_id) as dead_letters
from redrive_group where redrive = %s order by group_id
"""
COUNTS_OF = "select state, count(*)::int as items from redrive_item where redrive = %s group by state"


class RedriveRequests:
    """The table `redrive`, as used by API callers."""

    def __init__(self, database: Database, audit: AuditWriter, max_active: int) -> None:
        self._database = database
        self._audit = audit
        self._max_active = max_active

    async def matching_groups(self, caller: Principal, request: RedriveDeadLettersRequest) -> dict[str, int]:
        """Return the number of open letters that a request selects, by group.

        Raises:
            InvalidRequest: the filter is empty, or the inputs are no object.
        """
        edited_inputs(request)
        condition, parameters = letter_filter.of_open(caller, request.filter)
        query = SQL("select group_id, count(*)::int as letters from dead_letter where {} group by 1 order by 1")
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(query.format(condition), parameters)).fetchall()
        return {row["group_id"]: row["letters"] for row in rows}

    async def create(self, caller: Principal, request: RedriveDeadLettersRequest) -> str:
        """Store a redrive with its letters for the workers; return its id.

        Raises:
            Conflict: the request id was used with other contents.
            InvalidRequest: the filter is empty or selects too many letters, or the inputs are no object.
            RateLimited: the desk has too many active redrives.
        """
        request_id = request.request_id or uuid4().hex
        async with self._database.transaction() as connection:
            await lock_desk(connection, caller)
            if existing := await self._existing(connection, caller, request_id, request):
                return existing
            await self._check_active(connection, caller)
            redrive = await _insert(connection, caller, request_id, request)
            letters = await _select_letters(connection, caller, redrive, request)
            await self._audit.record(
                "redrive.start", redrive, details={"dead_letters": letters, **_details(request)}, connection=connection
            )
            await connection.execute("select pg_notify(%s, '')", (CHANNEL,))
            return redrive

    async def get(self, caller: Principal, redrive: str) -> tuple[Row, list[Row], dict[str, int]]:
        """Return a redrive, its groups, and the number of its letters by state.

        Raises:
            NotFound: the desk has no such redrive.
        """
        async with self._database.transaction() as connection:
            row = await _visible(connection, caller, redrive)
            groups = await (await connection.execute(GROUPS_OF, (redrive,))).fetchall()
            counts = await (await connection.execute(COUNTS_OF, (redrive,))).fetchall()
        return row, groups, {count["state"]: count["items"] for count in counts}

    async def cancel(self, caller: Principal, redrive: str) -> None:
        """Stop a redrive and put its waiting letters back. No effect on an ended one.

        Raises:
            NotFound: the desk has no such redrive.
        """
        async with self._database.transaction() as connection:
            await _visible(connection, caller, redrive)
            cursor = await connection.execute(
                "update redrive set state = 'STOPPED', ended_at = clock_timestamp() where id = %s and state = 'ACTIVE'",
                (redrive,),
            )
            if cursor.rowcount:
                await put_back(connection, redrive, None, f"the redrive was stopped by {caller.key}")
                await self._audit.record("redrive.stop", redrive, connection=connection)

    async def _existing(
        self, connection: Connection, caller: Principal, request_id: str, request: RedriveDeadLettersRequest
    ) -> str:
        cursor = await connection.execute(
            "select id, fingerprint from redrive where org = %s and desk = %s and request_id = %s and walls = %s",
            (caller.org, caller.desk, request_id, sorted(caller.walls)),
        )
        if (row := await cursor.fetchone()) is None:
            return ""
        if row["fingerprint"] != _fingerprint(request):
            raise Conflict(f"the request id {request_id!r} was used for another redrive, {row['id']!r}")
        return str(row["id"])

    async def _check_active(self, connection: Connection, caller: Principal) -> None:
        query = SQL("select count(*) as active from redrive where {} and state = 'ACTIVE'").format(SQL(VISIBLE))
        row = await (await connection.execute(query, tenant(caller))).fetchone()
        if row and row["active"] >= self._max_active:
            raise RateLimited(
                f"the desk {caller.desk!r} has {row['active']} active redrives; at most {self._max_active}",
                retry_after="60",
            )


def edited_inputs(request: RedriveDeadLettersRequest) -> dict[str, Any]:
    """Return the inputs that replace those of the runs.

    Raises:
        InvalidRequest: they are no object, or too large.
    """
    if len(request.inputs.text) > MAX_INPUT_BYTES:
        raise InvalidRequest(f"inputs has more than {MAX_INPUT_BYTES} bytes", param="inputs")
    value = json_value(request.inputs)
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(
            f"inputs is {request.inputs.text[:80]}; it must be an object of inputs by name", param="inputs"
        )
    return value or {}


async def _visible(connection: Connection, caller: Principal, redrive: str) -> Row:
    query = SQL("select * from redrive where {} and id = %(id)s").format(SQL(VISIBLE))
    row = await (await connection.execute(query, tenant(caller) | {"id": redrive})).fetchone()
    if row is None:
        raise NotFound(f"there is no redrive {redrive!r}")
    return row


async def _insert(
    connection: Connection, caller: Principal, request_id: str, request: RedriveDeadLettersRequest
) -> str:
    redrive = f"rd_{uuid4().hex}"
    await connection.execute(
        "insert into redrive (id, org, desk, key, scopes, walls, request_id, fingerprint, runs_per_minute, inputs,"
        " template_version, from_step) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            *(redrive, caller.org, caller.desk, caller.key, sorted(caller.scopes), sorted(caller.walls)),
            *(request_id, _fingerprint(request), request.runs_per_minute or DEFAULT_RUNS_PER_MINUTE),
            *(orjson.dumps(edited_inputs(request)).decode(), request.template_version, request.from_step),
        ),
    )
    return redrive


async def _select_letters(
    connection: Connection, caller: Principal, redrive: str, request: RedriveDeadLettersRequest
) -> int:
    condition, parameters = letter_filter.of_open(caller, request.filter)
    query = SQL(
        "with selected as (update dead_letter set state = 'REDRIVING', redrive = %(redrive)s, redrive_error = ''"
        " where {} returning number, group_id)"
        " insert into redrive_item (redrive, letter, group_id) select %(redrive)s, number, group_id from selected"
    ).format(condition)
    cursor = await connection.execute(query, parameters | {"redrive": redrive})
    if (letters := cursor.rowcount) > MAX_LETTERS:
        raise InvalidRequest(f"the filter selects {letters} dead letters; at most {MAX_LETTERS}", param="filter")
    await connection.execute(
        "insert into redrive_group (redrive, group_id)"
        " select distinct redrive, group_id from redrive_item where redrive = %s",
        (redrive,),
    )
    return letters


def _fingerprint(request: RedriveDeadLettersRequest) -> str:
    contents = RedriveDeadLettersRequest()
    contents.CopyFrom(request)
    contents.ClearField("request_id")
    return digest(contents.SerializeToString(deterministic=True))


def _details(request: RedriveDeadLettersRequest) -> dict[str, Any]:
    edited = {
        name: hashlib.sha256(orjson.dumps(value)).hexdigest() for name, value in sorted(edited_inputs(request).items())
    }
    return {
        "runs_per_minute": request.runs_per_minute or DEFAULT_RUNS_PER_MINUTE,
        "edited_inputs": edited,
        "template_version": request.template_version,
        "from_step": request.from_step,
        **described(request.filter),
    }
