"""BM25 scores of chunks from packed postings: k1 = 0.9, b = 0.4, as in Anserini (Yang, Fang and Lin, 2017)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from drw.rag.vector_store.ports import KeywordScores

K1 = 0.9
B = 0.4
HIT = np.dtype([("number", "<i4"), ("count", "<i4"), ("length", "<i4")])

Posting = tuple[str, int, bytes]
"""A term, the key of a document, and the packed hits of the term in it."""


def pack_hits(hits: Sequence[int]) -> bytes:
    """Return hits as bytes: of each the number of the chunk, the term count, and the chunk's length in terms."""
    return np.asarray(hits, dtype="<i4").tobytes()


def scores(terms: Sequence[str], postings: Sequence[Posting], chunks: int, average_length: float) -> KeywordScores:
    """Return the score of each chunk that has any of the terms.

    Args:
        terms: the terms of the question, each once.
        postings: all postings of each term in the documents that are searched.
        chunks: the number of chunks of those documents.
        average_length: the average number of terms of their chunks.
    """
    sizes = np.array([len(hits) // HIT.itemsize for _, _, hits in postings], dtype=np.int64)
    hits = np.frombuffer(b"".join(hits for _, _, hits in postings), dtype=HIT)
    idf = _inverse_document_frequency(terms, postings, sizes, chunks)
    count = hits["count"].astype(np.float64)
    weight = count * (1 + K1) / (count + K1 * (1 - B + B * hits["length"] / average_length))
    weight *= np.repeat(np.array([idf[term] for term, _, _ in postings]), sizes)
    documents = np.repeat(np.array([document for _, document, _ in postings], dtype=np.int64), sizes)
    positions, inverse = np.unique((documents << 32) | hits["number"], return_inverse=True)
    totals = np.bincount(inverse, weight, len(positions)).astype(np.float64)
    return KeywordScores(positions, totals, (1 + K1) * sum(idf.values()))


def _inverse_document_frequency(
    terms: Sequence[str], postings: Sequence[Posting], sizes: npt.NDArray[np.int64], chunks: int
) -> dict[str, float]:
    """Return the inverse document frequency of each term."""
    frequency: Counter[str] = Counter()
    for (term, _, _), size in zip(postings, sizes, strict=True):
        frequency[term] += int(size)
    return {term: math.log1p((chunks - frequency[term] + 0.5) / (frequency[term] + 0.5)) for term in terms}
