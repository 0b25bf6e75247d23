"""Concatenation and splitting of tensors along their first dimension."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drw.tensors.datatypes import BYTES, Tensor, TensorError, element_count, element_offsets

Tensors = tuple[Tensor, ...]


def concatenated(requests: Sequence[Tensors]) -> Tensors:
    """Return the inputs of several requests as one; the requests have equal names, data types and other dimensions."""
    if len(requests) == 1:
        return requests[0]
    joined = []
    for parts in zip(*requests, strict=True):
        first = parts[0]
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        joined.append(Tensor(first.name, first.datatype, shape, b"".join(part.data for part in parts)))
    return tuple(joined)


def split(outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """Return the outputs of each request, which has so many rows.

    Raises:
        TensorError: an output has another number of rows.
    """
    if len(rows) == 1:
        return [outputs]
    parts = [list(_split(output, rows)) for output in outputs]
    return [tuple(part[index] for part in parts) for index in range(len(rows))]


def _split(output: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
    if not output.shape or output.shape[0] != sum(rows):
        raise TensorError(f"the output {output.name!r} has the shape {list(output.shape)} for {sum(rows)} rows")
    per_row = element_count(output.shape[1:])
    data = memoryview(output.data)
    offsets = element_offsets(data) if output.datatype == BYTES else None
    row_bytes = len(data) // max(1, output.shape[0])
    start = 0
    for count in rows:
        end = start + count
        if offsets is None:
            part = data[start * row_bytes : end * row_bytes]
        else:
            part = data[offsets[start * per_row] : offsets[end * per_row]]
        yield Tensor(output.name, output.datatype, (count, *output.shape[1:]), part)
        start = end
