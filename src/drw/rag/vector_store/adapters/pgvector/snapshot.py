"""Search in one transaction snapshot: BM25 over postings, inner product over vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol

from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel.attributes import to_values
from drw.kernel.storage.database import Connection
from drw.rag.vector_store import bm25
from drw.rag.vector_store.ports import Filters, KeywordScores, Owner, PassagePosition, Snapshot

MAX_VALUES = 200

VISIBLE = "visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s)"
SEEN = f"{VISIBLE} v"
NARROWED = f"{VISIBLE} v where metadata_fits(v.metadata, %(filters)s, true)"
"""What a search looks at: all that is visible, or what automatic filters take of it."""

COUNT = "select count(*) as documents, coalesce(sum(chunks), 0) as chunks, coalesce(sum(terms), 0) as terms from {seen}"

VALUES = f"""
    with named as materialized (
        select document from subject where collection = %(collection)s and term = any(%(terms)s))
    select distinct v.metadata ->> %(key)s as value from {VISIBLE} v
    where v.key in (select document from named) and v.metadata ? %(key)s
        and metadata_fits(v.metadata, %(filters)s, false)
    order by value limit %(limit)s"""  # noqa: S608 - a constant

NEWEST = f"""
    select distinct max(v.metadata ->> 'period') as value from {VISIBLE} v
    where v.metadata ? 'period' and metadata_fits(v.metadata, %(filters)s, false)
    group by v.metadata ->> 'company' order by value limit %(limit)s"""  # noqa: S608 - a constant

POSTINGS = """
    with found as materialized (
        select term, document, hits from posting where collection = %(collection)s and term = any(%(terms)s))
    select term, document, hits from found where document in (select key from {seen})"""

WANTED = "select * from unnest(%(documents)s::int8[], %(numbers)s::int4[]) as w(document, number)"

ALL_VECTORS = f"""
    with near as materialized (
        select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
        where document in (select key from {{seen}}))
    (select * from near order by score desc, document, number limit %(limit)s)
    union
    select near.* from near join ({WANTED}) wanted using (document, number)"""  # noqa: S608 - a constant

GRAPH = """
    select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
    where collection = %(collection)s and document in (select key from {seen})
    order by value <#> %(vector)s::vector limit %(limit)s"""

VECTORS_AT = f"""
    select document, number, -(value <#> %(vector)s::vector) as score
    from chunk_vector join ({WANTED}) wanted using (document, number)"""  # noqa: S608 - a constant

PASSAGES = """
    select c.*, d.id, d.title, d.attributes
    from unnest(%s::int8[], %s::int4[]) as wanted(document, number)
    join chunk c using (document, number) join document d on d.key = c.document"""


ALL_COUNTED = "select reltuples::bigint as vectors from pg_class where oid = 'chunk_vector'::regclass"
"""As PostgreSQL estimates it, for free."""


class Searching(Protocol):
    """The settings of a search by vector."""

    @property
    def exact_up_to(self) -> int: ...

    @property
    def exact_below_share(self) -> float: ...

    @property
    def ef_search(self) -> int: ...


@dataclass(frozen=True, slots=True)
class View:
    """The documents of a collection that a caller may see and that the filters take, and how much that is."""

    names: Mapping[str, Any]
    documents: int
    chunks: int
    terms: int

    @classmethod
    async def of(cls, connection: Connection, owner: Owner, collection: int, jsonpath: str | None) -> View:
        """Count the visible documents."""
        names = {"collection": collection, "desk": owner.desk, "walls": list(owner.walls), "filter": jsonpath}
        return await cls.counted(connection, names)

    @classmethod
    async def counted(cls, connection: Connection, names: Mapping[str, Any]) -> View:
        """Count the documents that these query parameters match."""
        row = await (await connection.execute(_over(COUNT, names), names)).fetchone()
        assert row is not None
        return cls(names, row["documents"], int(row["chunks"]), int(row["terms"]))


class PostgresSnapshot(Snapshot):
    """A snapshot that lasts as long as its transaction."""

    def __init__(self, connection: Connection, view: View, settings: Searching) -> None:
        self._connection = connection
        self._view = view
        self._settings = settings

    async def values(self, key: str, terms: Sequence[str], filters: Filters) -> list[str]:
        return await self._few(VALUES, key=key, terms=list(terms), filters=_jsonb(filters))

    async def newest(self, filters: Filters) -> list[str]:
        return await self._few(NEWEST, filters=_jsonb(filters))

    async def narrowed(self, filters: Filters) -> PostgresSnapshot:
        view = await View.counted(self._connection, {**self._view.names, "filters": _jsonb(filters)})
        return PostgresSnapshot(self._connection, view, self._settings)

    async def by_words(self, terms: Sequence[str]) -> KeywordScores:
        postings: list[bm25.Posting] = []
        if terms and self._view.terms:
            async with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
                names = {**self._view.names, "terms": list(terms)}
                await cursor.execute(_over(POSTINGS, names), names)
                postings = await cursor.fetchall()
        return bm25.scores(terms, postings, self._view.chunks, self._view.terms / max(1, self._view.chunks) or 1.0)

    async def by_vector(
        self, vector: Sequence[float], positions: Sequence[PassagePosition], limit: int
    ) -> dict[PassagePosition, float]:
        if not vector or not self._view.chunks:
            return {}
        at = {
            "documents": [position.document for position in positions],
            "numbers": [position.number for position in positions],
        }
        parameters = {"vector": str(list(vector)), "limit": limit, **at}
        if await self._is_exact():
            return _scores(await self._rows(ALL_VECTORS, **parameters))
        await self._prepare_graph()
        scores = _scores(await self._rows(GRAPH, **parameters))
        return scores | _scores(await self._rows(VECTORS_AT, **parameters))

    async def passages(self, positions: Sequence[PassagePosition]) -> dict[PassagePosition, Passage]:
        keys = ([position.document for position in positions], [position.number for position in positions])
        rows = await (await self._connection.execute(PASSAGES, keys)).fetchall()
        return {PassagePosition(row["document"], row["number"]): _passage(row) for row in rows}

    async def _is_exact(self) -> bool:
        """Return whether each vector of the view is compared, since it has few, or a small share of all."""
        if self._view.chunks <= self._settings.exact_up_to:
            return True
        row = await (await self._connection.execute(ALL_COUNTED)).fetchone()
        return self._view.chunks < self._settings.exact_below_share * max(0, row["vectors"] if row else 0)

    async def _few(self, query: LiteralString, **values: Any) -> list[str]:
        """Return the values of a filter; none if there are too many to narrow the search."""
        rows = await self._rows(query, limit=MAX_VALUES + 1, **values)
        return [row["value"] for row in rows] if len(rows) <= MAX_VALUES else []

    async def _prepare_graph(self) -> None:
        for setting in (
            f"ef_search = {self._settings.ef_search}",
            "iterative_scan = strict_order",
            "max_scan_tuples = 200000",
        ):
            await self._connection.execute(sql.SQL("set local hnsw." + setting))

    async def _rows(self, query: LiteralString, **values: Any) -> list[dict[str, Any]]:
        composed = _over(query, self._view.names)
        return await (await self._connection.execute(composed, {**self._view.names, **values})).fetchall()


def _over(query: LiteralString, names: Mapping[str, Any]) -> sql.Composed:
    """Return a query over the visible documents, narrowed by the automatic filters."""
    return sql.SQL(query).format(seen=sql.SQL(NARROWED if "filters" in names else SEEN))


def _jsonb(filters: Filters) -> Jsonb:
    return Jsonb({key: list(values) for key, values in filters.items()})


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[PassagePosition, float]:
    return {PassagePosition(row["document"], row["number"]): float(row["score"]) for row in rows}


def _passage(row: Mapping[str, Any]) -> Passage:
    return Passage(
        document=row["id"],
        title=row["title"],
        chunk=row["number"],
        page=row["page"],
        start=row["begins"],
        end=row["ends"],
        text=row["text"],
        hash=row["hash"],
        attributes=to_values(row["attributes"]),
        context=row["context"],
    )
