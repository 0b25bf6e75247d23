"""Checks of requests that field rules cannot express: between the chunks of a document, and against the index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drw.api.rag.v1.vector_store_pb2 import Chunk
from drw.kernel.errors import InvalidRequest

DIMENSIONS = 384
"""Of the vectors in the index."""


def check_chunks(chunks: Sequence[Chunk]) -> None:
    """Check that chunks have distinct numbers, start before they end, and have vectors of the index.

    Raises:
        InvalidRequest: one does not.
    """
    numbers = set()
    for i, chunk in enumerate(chunks):
        if chunk.number in numbers:
            raise InvalidRequest(f"chunks has the number {chunk.number} twice", param="chunks")
        numbers.add(chunk.number)
        if chunk.end < chunk.start:
            param = f"chunks[{i}].end"
            raise InvalidRequest(f"{param} is {chunk.end}; it must be at least start, {chunk.start}", param=param)
        check_vector(chunk.vector.values, f"chunks[{i}].vector")


def check_vector(values: Sequence[float], param: str) -> None:
    """Check that a vector has the dimensions of the index, or none, and finite values.

    Raises:
        InvalidRequest: it does not.
    """
    if values and len(values) != DIMENSIONS:
        raise InvalidRequest(f"{param} has {len(values)} dimensions; the index has {DIMENSIONS}", param=param)
    if not np.isfinite(values).all():
        raise InvalidRequest(f"{param} has a value that is not a finite number", param=param)
