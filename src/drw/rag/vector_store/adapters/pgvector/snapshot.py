"""Searches in one snapshot: BM25 over the postings, inner product over the vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel.database import Connection
from drw.rag.vector_store.ports import Owner, Place, Snapshot, Subject

K1 = 0.9
B = 0.4
"""BM25's parameters, as in Anserini's defaults (Yang, Fang and Lin, 2017)."""

MAX_SUBJECTS = 200

COUNT = """
    select count(*) as documents, coalesce(sum(chunks), 0) as chunks, coalesce(sum(terms), 0) as terms
    from visible(%(collection)s, %(desk)s, %(attributes)s)"""

SUBJECTS = """
    with wanted as (select * from unnest(%(terms)s::text[], %(weights)s::float8[]) as w(term, sought)),
    found as (
        select s.term, s.document, s.weight, w.sought from subject s join wanted w using (term)
        where s.collection = %(collection)s
            and s.document in (select key from visible(%(collection)s, %(desk)s, %(attributes)s))),
    rarity as (select term, ln(1 + (%(total)s - count(*) + 0.5) / (count(*) + 0.5)) as idf from found group by term)
    select f.document, sum(f.weight * f.sought * r.idf) as score, d.dated
    from found f join rarity r using (term) join document d on d.key = f.document
    group by f.document, d.dated order by score desc, f.document limit %(limit)s"""

WORDS = """
    with found as (
        select p.term, p.document, u.number, u.often, u.length
        from posting p, unnest(p.numbers, p.counts, p.lengths) as u(number, often, length)
        where p.collection = %(collection)s and p.term = any(%(terms)s)
            and p.document in (select key from visible(%(collection)s, %(desk)s, %(attributes)s))),
    rarity as materialized (
        select term, ln(1 + (%(total)s - count(*) + 0.5) / (count(*) + 0.5))::float8 as idf from found group by term),
    scored as materialized (
        select document, number, sum(idf * often * (1 + %(k1)s::float8) / (
            often + %(k1)s::float8 * (1 - %(b)s::float8 + %(b)s::float8 * length / %(average)s::float8))) as score
        from found join rarity using (term) group by document, number)
    (select * from scored order by score desc, document, number limit %(limit)s)
    union
    (select * from scored where document = any(%(preferred)s) order by score desc, document, number limit %(limit)s)
"""

ALL_VECTORS = """
    with near as materialized (
        select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
        where document in (select key from visible(%(collection)s, %(desk)s, %(attributes)s)))
    (select * from near order by score desc, document, number limit %(limit)s)
    union
    (select * from near where document = any(%(preferred)s) order by score desc, document, number limit %(limit)s)
"""

GRAPH = """
    select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
    where collection = %(collection)s
        and document in (select key from visible(%(collection)s, %(desk)s, %(attributes)s))
    order by value <#> %(vector)s::vector limit %(limit)s"""

PREFERRED_VECTORS = """
    select document, number, -(value <#> %(vector)s::vector) as score from chunk_vector
    where document = any(%(preferred)s) order by (value <#> %(vector)s::vector) + 0 limit %(limit)s"""

PASSAGES = """
    select c.*, d.id, d.title, d.attributes
    from unnest(%s::int8[], %s::int4[]) as wanted(document, number)
    join chunk c using (document, number) join document d on d.key = c.document"""


@dataclass(frozen=True, slots=True)
class View:
    """The documents of a collection that a desk may see and that have some attributes, and how much that is."""

    names: Mapping[str, Any]
    documents: int
    chunks: int
    terms: int

    @classmethod
    async def of(cls, connection: Connection, owner: Owner, collection: int, attributes: Mapping[str, str]) -> View:
        """Count what can be seen."""
        names = {"collection": collection, "desk": owner.desk, "attributes": Jsonb(dict(attributes))}
        row = await (await connection.execute(COUNT, names)).fetchone()
        assert row is not None
        return cls(names, row["documents"], int(row["chunks"]), int(row["terms"]))


class PostgresSnapshot(Snapshot):
    """A snapshot that lasts as long as its transaction."""

    def __init__(self, connection: Connection, view: View, exact_up_to: int, ef_search: int) -> None:
        self._connection = connection
        self._view = view
        self._exact_up_to = exact_up_to
        self._ef_search = ef_search

    async def subjects(self, terms: Mapping[str, float]) -> list[Subject]:
        if not terms:
            return []
        lists = {"terms": list(terms), "weights": list(terms.values())}
        rows = await self._rows(SUBJECTS, total=self._view.documents, limit=MAX_SUBJECTS, **lists)
        return [Subject(row["document"], float(row["score"]), row["dated"]) for row in rows]

    async def by_words(self, terms: Sequence[str], preferred: Sequence[int], limit: int) -> dict[Place, float]:
        if not terms or not self._view.terms:
            return {}
        average = self._view.terms / self._view.chunks
        numbers = {"total": self._view.chunks, "average": average, "k1": K1, "b": B, "limit": limit}
        return _scores(await self._rows(WORDS, terms=list(terms), preferred=list(preferred), **numbers))

    async def by_vector(self, vector: Sequence[float], preferred: Sequence[int], limit: int) -> dict[Place, float]:
        if not vector or not self._view.chunks:
            return {}
        asked = {"vector": str(list(vector)), "preferred": list(preferred), "limit": limit}
        if self._view.chunks <= self._exact_up_to:
            return _scores(await self._rows(ALL_VECTORS, **asked))
        await self._prepare_graph()
        found = _scores(await self._rows(GRAPH, **asked))
        return found | _scores(await self._rows(PREFERRED_VECTORS, **asked)) if preferred else found

    async def passages(self, places: Sequence[Place]) -> dict[Place, Passage]:
        keys = ([place.document for place in places], [place.number for place in places])
        rows = await (await self._connection.execute(PASSAGES, keys)).fetchall()
        return {Place(row["document"], row["number"]): _passage(row) for row in rows}

    async def _prepare_graph(self) -> None:
        for setting in (f"ef_search = {self._ef_search}", "iterative_scan = strict_order", "max_scan_tuples = 200000"):
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
        attributes=row["attributes"],
        context=row["context"],
    )
