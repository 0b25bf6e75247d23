"""Stored responses in PostgreSQL: reads by tenant and walls, chains, limits and retention."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, LiteralString

import orjson

from drw.kernel import walls
from drw.kernel.errors import DrwError, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.models.serving.responses_api.objects import COMPLETED, FAILED, IN_PROGRESS, INCOMPLETE, Item, Response
from drw.models.serving.settings import ResponseSettings

CONTINUABLE = (COMPLETED, INCOMPLETE)
STALE_SECONDS = 3700
"""Responses in progress for longer have lost their process: no answer may take longer than an hour."""
EXPIRY_SECONDS, EXPIRY_BATCH = 600.0, 500
"""Interval of the deletion of expired responses, and responses of one deletion."""
DAY = 86_400
STATEMENT_SECONDS = 10.0
SELECT: LiteralString = """select status, input, body, extract(epoch from now() - created_at)::float8 as age
    from visible_responses(%s, %s, %s) where id = %s and created_at > now() - make_interval(secs => %s)"""
CHAIN: LiteralString = """with recursive chain as (
        select r.* from visible_responses(%s, %s, %s) r
        where r.id = %s and r.created_at > now() - make_interval(secs => %s)
        union all
        select r.* from chain c join response r on r.id = c.previous
        where r.org = c.org and r.desk = c.desk and inside(r.walls, %s)
        and r.created_at > now() - make_interval(secs => %s)
    )
    select id, previous, status, position, chain_bytes, input, body from chain order by position desc limit %s"""
DELETE: LiteralString = """delete from response where id in (select id from visible_responses(%s, %s, %s)
    where id = %s and created_at > now() - make_interval(secs => %s))"""
# With the schema: the transaction of a charge has another search path.
FINISH: LiteralString = """update serving.response set status = %s, body = %s,
    chain_bytes = chain_bytes + %s - octet_length(body), bytes = octet_length(input) + %s
    where org = %s and desk = %s and id = %s"""
DISCARD: LiteralString = "delete from response where org = %s and desk = %s and id = %s"
LOST = {"code": "server_error", "message": "the process that wrote the answer has ended: send the request again"}


class ResponseNotFound(NotFound):
    """The response does not exist, has expired or was deleted, or the caller cannot see it."""

    def __init__(self, id_: str) -> None:
        super().__init__(f"there is no response {id_[:128]!r}", param="response_id")


class PreviousResponseNotFound(InvalidRequest):
    """As `ResponseNotFound`, for a response that a request continues. As at OpenAI, it is a 400."""

    def __init__(self, id_: str) -> None:
        message = f"there is no response {id_[:128]!r} to continue"
        super().__init__(message, code="previous_response_not_found", param="previous_response_id")


class StorageFull(RateLimited):
    """The desk or the org has stored too many bytes."""

    def __init__(self, owner: str, size: int) -> None:
        message = f"the responses of the {owner} have {size} bytes, the maximum: delete some, or send store: false"
        super().__init__(message, code="storage_full", param="store", retry_after="3600")


@dataclass(frozen=True, slots=True)
class Chain:
    """The conversation before a request."""

    previous: str = ""
    position: int = 0
    bytes: int = 0
    items: tuple[Item, ...] = ()


EMPTY = Chain()


class ResponseStore:
    """Reads and writes the responses of a caller's desk, inside the caller's walls."""

    def __init__(self, database: Database, audit: AuditWriter, settings: ResponseSettings) -> None:
        self._database = database
        self._audit = audit
        self._settings = settings

    async def begin(self, principal: Principal, chain: Chain, items: list[Item], response: Response) -> None:
        """Store a response in progress with its input.

        Raises:
            StorageFull: the desk or the org has stored too much.
            InvalidRequest: the input is too large.
            Unavailable: the database does not respond.
        """
        stored_input, body = orjson.dumps(items), orjson.dumps(response)
        size = len(stored_input) + len(body)
        if size > self._settings.max_bytes:
            message = f"the request has {size} bytes to store; at most {self._settings.max_bytes}: send store: false"
            raise InvalidRequest(message, param="store")
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                """select coalesce(sum(bytes), 0)::bigint as org,
                    coalesce(sum(bytes) filter (where desk = %s), 0)::bigint as desk
                from stored_bytes where org = %s""",
                (principal.desk, principal.org),
            )
            used = await cursor.fetchone() or {"org": 0, "desk": 0}
            limits = {"desk": self._settings.max_bytes_per_desk, "org": self._settings.max_bytes_per_org}
            for owner, limit in limits.items():
                if used[owner] + size > limit:
                    raise StorageFull(f"{owner} {getattr(principal, owner)!r}", used[owner])
            await connection.execute(
                """insert into response (id, org, desk, key, walls, previous, position, chain_bytes, bytes, status,
                    input, body) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
                (
                    *(response["id"], principal.org, principal.desk, principal.key),
                    walls.for_new_object((), principal),
                    *(chain.previous or None, chain.position + 1, chain.bytes + size, size, IN_PROGRESS),
                    *(stored_input, body),
                ),
            )

    async def finish(self, principal: Principal, response: Response, connection: Connection | None = None) -> None:
        """Store the end of a response, unless it was deleted in the meantime; raises `Unavailable`.

        With a connection, it is part of the connection's transaction.
        """
        body = orjson.dumps(response)
        size, owner = len(body), (principal.org, principal.desk, response["id"])
        values = (response["status"], body, size, size, *owner)
        if connection is None:
            await self._execute(FINISH, *values)
        else:
            await connection.execute(FINISH, values)

    async def discard(self, principal: Principal, id_: str) -> None:
        """Delete a response that failed before the caller received its id; raises `Unavailable`."""
        await self._execute(DISCARD, principal.org, principal.desk, id_)

    async def discard_unfinished(self, principal: Principal, id_: str) -> None:
        """Delete a response that is in progress; raises `Unavailable`."""
        await self._execute(f"{DISCARD} and status = 'in_progress'", principal.org, principal.desk, id_)

    async def get(self, principal: Principal, id_: str) -> tuple[Response, list[Item]]:
        """Return a response and its input items.

        Raises:
            ResponseNotFound: the caller cannot see such a response.
        """
        rows = await self._execute(
            SELECT,
            *(principal.org, principal.desk, sorted(principal.walls), id_, self._retention),
        )
        if not rows:
            raise ResponseNotFound(id_)
        response: Response = orjson.loads(rows[0]["body"])
        if rows[0]["status"] == IN_PROGRESS and rows[0]["age"] > STALE_SECONDS:
            response |= {"status": FAILED, "error": LOST}
        return response, orjson.loads(rows[0]["input"])

    async def chain(self, principal: Principal, id_: str) -> Chain:
        """Return the conversation up to a response: the input and output items of all responses of its chain.

        Raises:
            PreviousResponseNotFound: the caller cannot see the response, or one before it.
            InvalidRequest: it is not complete, or the chain is too long.
        """
        limit = self._settings.max_chain
        rows = await self._execute(
            CHAIN,
            *(principal.org, principal.desk, sorted(principal.walls), id_, self._retention),
            *(sorted(principal.walls), self._retention, limit + 1),
        )
        if not rows or rows[-1]["previous"]:
            self._check_length(rows)
            missing = rows[-1]["previous"] if rows else id_
            raise PreviousResponseNotFound(missing)
        self._check_length(rows)
        if rows[0]["status"] not in CONTINUABLE:
            message = f"the response {id_!r} is {rows[0]['status']}; only a complete one can be continued"
            raise InvalidRequest(message, param="previous_response_id")
        items: list[Item] = []
        for row in reversed(rows):
            items += [*orjson.loads(row["input"]), *orjson.loads(row["body"])["output"]]
        return Chain(id_, rows[0]["position"], rows[0]["chain_bytes"], tuple(items))

    async def delete(self, principal: Principal, id_: str) -> None:
        """Delete a response with its content; raises `ResponseNotFound` if the caller cannot see it."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                DELETE,
                (principal.org, principal.desk, sorted(principal.walls), id_, self._retention),
            )
            if not cursor.rowcount:
                raise ResponseNotFound(id_)
            await self._audit.record("response.delete", f"response/{id_}", connection=connection)

    async def expire(self) -> None:
        """Delete expired responses from time to time."""
        while True:
            try:
                while await self._expire_batch() == EXPIRY_BATCH:
                    pass
            except DrwError:
                pass  # the database does not respond; the next round deletes them
            await asyncio.sleep(EXPIRY_SECONDS)

    async def _expire_batch(self) -> int:
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                """delete from response where id in (
                    select id from response where created_at <= now() - make_interval(secs => %s)
                    order by created_at limit %s for update skip locked
                )""",
                (self._retention, EXPIRY_BATCH),
            )
            return cursor.rowcount

    async def _execute(self, query: LiteralString, *args: Any) -> list[dict[str, Any]]:
        """Run one statement in a connection of the pool, and return its rows."""
        async with self._database.transaction(STATEMENT_SECONDS) as connection:
            cursor = await connection.execute(query, args)
            return await cursor.fetchall() if cursor.description else []

    @property
    def _retention(self) -> float:
        return self._settings.retention_days * DAY

    def _check_length(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        if rows[0]["position"] >= self._settings.max_chain or len(rows) > self._settings.max_chain:
            message = f"the chain has {rows[0]['position']} responses; at most {self._settings.max_chain}"
        elif rows[0]["chain_bytes"] > self._settings.max_chain_bytes:
            message = f"the chain has {rows[0]['chain_bytes']} bytes; at most {self._settings.max_chain_bytes}"
        else:
            return
        raise InvalidRequest(f"{message}: start another with the items that matter", param="previous_response_id")
