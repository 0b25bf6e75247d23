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

VISIBLE_DOCUMENTS = "visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s)"
UNFILTERED = f"{VISIBLE_DOCUMENTS} v"
FILTERED = f"{VISIBLE_DOCUMENTS} v where metadata_fits(v.metadata, %(filters)s, true)"
"""The documents that a search covers: all visible ones, or those that match the automatic filters."""

COUNT = "select count(*) as documents, coalesce(sum(chunks), 0) as chunks, coalesce(sum(terms), 0) as terms from {seen}"

VALUES = f"""
    with named as materialized (
        select document from subject where collection = %(collection)s and term = any(%(terms)s))
    select distinct v.metadata ->> %(key)s as value from {VISIBLE_DOCUMENTS} v
    where v.key in (select document from named) and v.metadata ? %(key)s
        and metadata_fits(v.metadata, %(filters)s, false)
    order by value limit %(limit)s"""  # noqa: S608 - a constant

NEWEST = f"""
    select distinct max(v.metadata ->> 'period') as value from {VISIBLE_DOCUMENTS} v
    where v.metadata ? 'period' and metadata_fits(v.metadata, %(filters)s, false)
    group by v.metadata ->> 'company' order by value limit %(limit)s"""  # noqa: S608 - a constant

POSTINGS = """
    with found as materialized (
        select term, document, hits from posting where collection = %(collection)s and term = any(%(terms)s))
    select term, document, hits from found where document in (select key from {seen})"""

POSITIONS = "select * from unnest(%(documents)s::int8[], %(numbers)s::int4[]) as w(document, number)"

EXACT_SEARCH = f"""
    with near as materialized (
        select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
        where document in (select key from {{seen}}))
    (select * from near order by score desc, document, number limit %(limit)s)
    union
    select near.* from near join ({POSITIONS}) wanted using (document, number)"""  # noqa: S608 - a constant

GRAPH_SEARCH = """
    select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
    where collection = %(collection)s and document in (select key from {seen})
    order by value <#> %(vector)s::vector limit %(limit)s"""

SCORES_AT_POSITIONS = f"""
    select document, number, -(value <#> %(vector)s::vector) as score
    from chunk_vector join ({POSITIONS}) wanted using (document, number)"""  # noqa: S608 - a constant

PASSAGES = """
    select c.*, d.id, d.title, d.attributes
    from unnest(%s::int8[], %s::int4[]) as wanted(document, number)
    join chunk c using (document, number) join document d on d.key = c.document"""


VECTOR_COUNT = "select reltuples::bigint as vectors from pg_class where oid = 'chunk_vector'::regclass"
"""PostgreSQL's estimate, without a scan."""


class SearchSettings(Protocol):
    """The settings of a search by vector."""

    @property
    def exact_up_to(self) -> int: ...

    @property
    def exact_below_share(self) -> float: ...

    @property
    def ef_search(self) -> int: ...


@dataclass(frozen=True, slots=True)
class VisibleDocuments:
    """The documents of a collection that the caller may see and that match the filters, with their counts."""

    parameters: Mapping[str, Any]
    documents: int
    chunks: int
    terms: int

    @classmethod
    async def of(cls, connection: Connection, owner: Owner, collection: int, jsonpath: str | None) -> VisibleDocuments:
        """Count the visible documents."""
        parameters = {"collection": collection, "desk": owner.desk, "walls": list(owner.walls), "filter": jsonpath}
        return await cls.count(connection, parameters)

    @classmethod
    async def count(cls, connection: Connection, parameters: Mapping[str, Any]) -> VisibleDocuments:
        """Count the documents that these query parameters match."""
        row = await (await connection.execute(_compose(COUNT, parameters), parameters)).fetchone()
        assert row is not None
        return cls(parameters, row["documents"], int(row["chunks"]), int(row["terms"]))


class PostgresSnapshot(Snapshot):
    """A snapshot for the duration of a transaction."""

    def __init__(self, connection: Connection, visible: VisibleDocuments, settings: SearchSettings) -> None:
        self._connection = connection
        self._visible = visible
        self._settings = settings

    async def metadata_values(self, key: str, terms: Sequence[str], filters: Filters) -> list[str]:
        return await self._filter_values(VALUES, key=key, terms=list(terms), filters=_jsonb(filters))

    async def newest_periods(self, filters: Filters) -> list[str]:
        return await self._filter_values(NEWEST, filters=_jsonb(filters))

    async def narrow(self, filters: Filters) -> PostgresSnapshot:
        visible = await VisibleDocuments.count(
            self._connection, {**self._visible.parameters, "filters": _jsonb(filters)}
        )
        return PostgresSnapshot(self._connection, visible, self._settings)

    async def keyword_search(self, terms: Sequence[str]) -> KeywordScores:
        postings: list[bm25.Posting] = []
        if terms and self._visible.terms:
            async with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
                parameters = {**self._visible.parameters, "terms": list(terms)}
                await cursor.execute(_compose(POSTINGS, parameters), parameters)
                postings = await cursor.fetchall()
        return bm25.scores(
            terms, postings, self._visible.chunks, self._visible.terms / max(1, self._visible.chunks) or 1.0
        )

    async def vector_search(
        self, vector: Sequence[float], positions: Sequence[PassagePosition], limit: int
    ) -> dict[PassagePosition, float]:
        if not vector or not self._visible.chunks:
            return {}
        position_arrays = {
            "documents": [position.document for position in positions],
            "numbers": [position.number for position in positions],
        }
        parameters = {"vector": str(list(vector)), "limit": limit, **position_arrays}
        if await self._is_exact():
            return _scores(await self._rows(EXACT_SEARCH, **parameters))
        await self._configure_graph_search()
        scores = _scores(await self._rows(GRAPH_SEARCH, **parameters))
        return scores | _scores(await self._rows(SCORES_AT_POSITIONS, **parameters))

    async def passages(self, positions: Sequence[PassagePosition]) -> dict[PassagePosition, Passage]:
        keys = ([position.document for position in positions], [position.number for position in positions])
        rows = await (await self._connection.execute(PASSAGES, keys)).fetchall()
        return {PassagePosition(row["document"], row["number"]): _passage(row) for row in rows}

    async def _is_exact(self) -> bool:
        """Return whether the search compares every visible vector: if they are few, or a small share of all vectors."""
        if self._visible.chunks <= self._settings.exact_up_to:
            return True
        row = await (await self._connection.execute(VECTOR_COUNT)).fetchone()
        return self._visible.chunks < self._settings.exact_below_share * max(0, row["vectors"] if row else 0)

    async def _filter_values(self, query: LiteralString, **values: Any) -> list[str]:
        """Return the values of a filter; none if there are too many to narrow the search."""
        rows = await self._rows(query, limit=MAX_VALUES + 1, **values)
        return [row["value"] for row in rows] if len(rows) <= MAX_VALUES else []

    async def _configure_graph_search(self) -> None:
        for setting in (
            f"ef_search = {self._settings.ef_search}",
            "iterative_scan = strict_order",
            "max_scan_tuples = 200000",
        ):
            await self._connection.execute(sql.SQL("set local hnsw." + setting))

    async def _rows(self, query: LiteralString, **values: Any) -> list[dict[str, Any]]:
        composed = _compose(query, self._visible.parameters)
        return await (await self._connection.execute(composed, {**self._visible.parameters, **values})).fetchall()


def _compose(query: LiteralString, parameters: Mapping[str, Any]) -> sql.Composed:
    """Return a query over the visible documents, narrowed by the automatic filters."""
    return sql.SQL(query).format(seen=sql.SQL(FILTERED if "filters" in parameters else UNFILTERED))


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
