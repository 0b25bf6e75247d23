"""Searches in one snapshot: BM25 over the postings, inner product over the vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from psycopg import sql
from psycopg.rows import tuple_row

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel.attributes import to_values
from drw.kernel.database import Connection
from drw.rag.vector_store import bm25
from drw.rag.vector_store.ports import Owner, Place, Snapshot, Subject

MAX_SUBJECTS = 200

COUNT = """
    select count(*) as documents, coalesce(sum(chunks), 0) as chunks, coalesce(sum(terms), 0) as terms
    from visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s)"""

SUBJECTS = """
    with wanted as (select * from unnest(%(terms)s::text[], %(weights)s::float8[]) as w(term, sought)),
    found as materialized (
        select s.term, s.document, s.weight * w.sought as weight from subject s join wanted w using (term)
        where s.collection = %(collection)s and s.term = any(%(terms)s)),
    seen as materialized (
        select found.*, v.dated from found
        join visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s) v on v.key = found.document),
    rarity as (select term, ln(1 + (%(total)s - count(*) + 0.5) / (count(*) + 0.5)) as idf from seen group by term)
    select document, sum(weight * idf) as score, dated from seen join rarity using (term)
    group by document, dated order by score desc, document limit %(limit)s"""

POSTINGS = """
    with found as materialized (
        select term, document, hits from posting where collection = %(collection)s and term = any(%(terms)s))
    select term, document, hits from found
    where document in (select key from visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s))"""

ALL_VECTORS = """
    with near as materialized (
        select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
        where document in (select key from visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s)))
    (select * from near order by score desc, document, number limit %(limit)s)
    union
    (select * from near where document = any(%(preferred)s) order by score desc, document, number limit %(limit)s)
"""

GRAPH = """
    select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
    where collection = %(collection)s
        and document in (select key from visible(%(collection)s, %(desk)s, %(walls)s, %(filter)s))
    order by value <#> %(vector)s::vector limit %(limit)s"""

PREFERRED_VECTORS = """
    select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
    where document = any(%(preferred)s) order by (value <#> %(vector)s::vector) + 0 limit %(limit)s"""

PASSAGES = """
    select c.*, d.id, d.title, d.attributes
    from unnest(%s::int8[], %s::int4[]) as wanted(document, number)
    join chunk c using (document, number) join document d on d.key = c.document"""


ALL_COUNTED = "select reltuples::bigint as vectors from pg_class where oid = 'chunk_vector'::regclass"
"""As PostgreSQL estimates it, for free."""


class Searching(Protocol):
    """The settings of a search by vector."""

    exact_up_to: int
    exact_below_share: float
    ef_search: int


@dataclass(frozen=True, slots=True)
class View:
    """The documents of a collection that a caller may see and that a filter takes, and how much that is."""

    names: Mapping[str, Any]
    documents: int
    chunks: int
    terms: int

    @classmethod
    async def of(cls, connection: Connection, owner: Owner, collection: int, jsonpath: str | None) -> View:
        """Count what can be seen."""
        names = {"collection": collection, "desk": owner.desk, "walls": list(owner.walls), "filter": jsonpath}
        row = await (await connection.execute(COUNT, names)).fetchone()
        assert row is not None
        return cls(names, row["documents"], int(row["chunks"]), int(row["terms"]))


class PostgresSnapshot(Snapshot):
    """A snapshot that lasts as long as its transaction."""

    def __init__(self, connection: Connection, view: View, settings: Searching) -> None:
        self._connection = connection
        self._view = view
        self._settings = settings

    async def subjects(self, terms: Mapping[str, float]) -> list[Subject]:
        if not terms:
            return []
        lists = {"terms": list(terms), "weights": list(terms.values())}
        rows = await self._rows(SUBJECTS, total=self._view.documents, limit=MAX_SUBJECTS, **lists)
        return [Subject(row["document"], float(row["score"]), row["dated"]) for row in rows]

    async def by_words(self, terms: Sequence[str], preferred: Sequence[int], limit: int) -> dict[Place, float]:
        if not terms or not self._view.terms:
            return {}
        async with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            await cursor.execute(POSTINGS, {**self._view.names, "terms": list(terms)})
            postings = await cursor.fetchall()
        scores = bm25.scores(postings, self._view.chunks, self._view.terms / self._view.chunks)
        return bm25.best(scores, preferred, limit)

    async def by_vector(self, vector: Sequence[float], preferred: Sequence[int], limit: int) -> dict[Place, float]:
        if not vector or not self._view.chunks:
            return {}
        asked = {"vector": str(list(vector)), "preferred": list(preferred), "limit": limit}
        if await self._is_exact():
            return _scores(await self._rows(ALL_VECTORS, **asked))
        await self._prepare_graph()
        found = _scores(await self._rows(GRAPH, **asked))
        return found | _scores(await self._rows(PREFERRED_VECTORS, **asked)) if preferred else found

    async def passages(self, places: Sequence[Place]) -> dict[Place, Passage]:
        keys = ([place.document for place in places], [place.number for place in places])
        rows = await (await self._connection.execute(PASSAGES, keys)).fetchall()
        return {Place(row["document"], row["number"]): _passage(row) for row in rows}

    async def _is_exact(self) -> bool:
        """Return whether each vector of the view is compared, since it has few, or a small share of all."""
        if self._view.chunks <= self._settings.exact_up_to:
            return True
        row = await (await self._connection.execute(ALL_COUNTED)).fetchone()
        return self._view.chunks < self._settings.exact_below_share * max(0, row["vectors"] if row else 0)

    async def _prepare_graph(self) -> None:
        for setting in (
            f"ef_search = {self._settings.ef_search}",
            "iterative_scan = strict_order",
            "max_scan_tuples = 200000",
        ):
            await self._connection.execute(sql.SQL("set local hnsw." + setting))

    async def _rows(self, query: Any, **values: Any) -> list[dict[str, Any]]:
        return await (await self._connection.execute(query, {**self._view.names, **values})).fetchall()


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[Place, float]:
    return {Place(row["document"], row["number"]): float(row["score"]) for row in rows}


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
