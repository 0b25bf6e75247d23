"""Scores chunks by BM25 from packed postings: k1 = 0.9, b = 0.4, as in Anserini (Yang, Fang and Lin, 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drw.rag.vector_store.ports import Place

K1 = 0.9
B = 0.4
HIT = np.dtype([("number", "<i4"), ("count", "<i4"), ("length", "<i4")])

Posting = tuple[str, int, bytes]
"""A term, the key of a document, and the packed hits of the term in it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The chunks that have any of the terms: one entry a chunk in each array."""

    documents: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def packed(hits: Sequence[int]) -> bytes:
    """Return hits as bytes: for each the chunk's number, the count in it, and the chunk's length in terms."""
    return np.asarray(hits, dtype="<i4").tobytes()


def scores(postings: Sequence[Posting], chunks: int, average: float) -> Scores:
    """Return the score of each chunk that has any of the terms.

    Args:
        postings: all postings of each term in the documents that are searched.
        chunks: how many chunks those documents have.
        average: how many terms a chunk of them has on average.
    """
    sizes = np.array([len(hits) // HIT.itemsize for _, _, hits in postings], dtype=np.int64)
    hits = np.frombuffer(b"".join(hits for _, _, hits in postings), dtype=HIT)
    count = hits["count"].astype(np.float64)
    weight = count * (1 + K1) / (count + K1 * (1 - B + B * hits["length"] / average))
    weight *= np.repeat(_rarity(postings, sizes, chunks), sizes)
    documents = np.repeat(np.array([document for _, document, _ in postings], dtype=np.int64), sizes)
    places, where = np.unique((documents << 32) | hits["number"], return_inverse=True)
    return Scores(places >> 32, places & 0xFFFFFFFF, np.bincount(where, weight, len(places)).astype(np.float64))


def best(found: Scores, preferred: Sequence[int], limit: int) -> dict[Place, float]:
    """Return the best chunks, and as many of the preferred documents alone."""
    inside = np.flatnonzero(np.isin(found.documents, np.asarray(preferred, dtype=np.int64)))
    chosen = np.concatenate([_top(found.scores, limit), inside[_top(found.scores[inside], limit)]])
    return {Place(int(found.documents[n]), int(found.numbers[n])): float(found.scores[n]) for n in chosen}


def _top(values: npt.NDArray[np.float64], limit: int) -> npt.NDArray[np.int64]:
    return np.argsort(-values, kind="stable")[:limit]


def _rarity(postings: Sequence[Posting], sizes: npt.NDArray[np.int64], chunks: int) -> npt.NDArray[np.float64]:
    """Return, for each posting, the inverse document frequency of its term."""
    frequency: Counter[str] = Counter()
    for (term, _, _), size in zip(postings, sizes, strict=True):
        frequency[term] += int(size)
    each = np.array([frequency[term] for term, _, _ in postings], dtype=np.float64)
    return np.log1p((chunks - each + 0.5) / (each + 0.5))
