"""Probes of a loaded model before it takes traffic: warm-up, and whether its requests can be batched."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from drw.kernel.errors import InvalidRequest
from drw.models.serving.ports import LoadedModel
from drw.tensors.batches import concatenated, split
from drw.tensors.datatypes import BF16, BYTES, FLOATS, NUMPY, Tensor, TensorError, TensorSpec, from_bfloat16
from drw.tensors.datatypes import encoded as encoded_bytes

MAX_PROBE_ELEMENTS = 1 << 22
RELATIVE_TOLERANCE = {"FP16": 2e-2, BF16: 5e-2, "FP32": 1e-3, "FP64": 1e-6}
"""Different batch sizes may use different kernels, whose sums differ by rounding."""

log = logging.getLogger(__name__)


async def warm_up(model: LoadedModel) -> None:
    """Run the model once with zeros, so that the first request does not pay for the first allocations.

    A model that rejects zeros is served nevertheless.
    """
    with suppress(InvalidRequest):
        await model.infer([_filled(spec, 0) for spec in model.inputs], ())


async def rows_are_independent(model: LoadedModel) -> bool:
    """Return whether the model computes each row of a batch as if it were alone.

    Joined requests of different tenants must not affect each other, and a graph can mix rows, as in a mean over the
    batch. The first dimension of all inputs and outputs must vary by the same name, and a batch of two different rows
    must give the same results as both rows alone.
    """
    symbols = {spec.batch_symbol for spec in (*model.inputs, *model.outputs)}
    if len(symbols) != 1 or "" in symbols:
        log.info("not batched: the first dimensions of inputs and outputs have no common name")
        return False
    first, second = (tuple(_filled(spec, value) for spec in model.inputs) for value in (0, 1))
    try:
        alone = [await model.infer(first, ()), await model.infer(second, ())]
        together = split(await model.infer(concatenated([first, second]), ()), [1, 1])
        reverse = split(await model.infer(concatenated([second, first]), ()), [1, 1])
    except (InvalidRequest, TensorError) as error:
        log.info("not batched: %s", error)
        return False
    pairs = [*zip(alone, together, strict=True), *zip(alone, reversed(reverse), strict=True)]
    independent = all(_equal(one, other) for one, other in pairs)
    if not independent:
        log.warning("not batched: a row changes the results of another row of its batch")
    return independent


def _filled(spec: TensorSpec, value: int) -> Tensor:
    shape = tuple(1 if size < 0 else size for size in spec.shape)
    elements = int(np.prod(shape, dtype=np.int64))
    if elements > MAX_PROBE_ELEMENTS:
        raise InvalidRequest(f"{spec.name!r} is too large for a probe")
    if spec.datatype == BYTES:
        return Tensor(spec.name, BYTES, shape, encoded_bytes([b"a" * value] * elements))
    if spec.datatype in FLOATS and value:
        values = np.random.default_rng(elements).standard_normal(elements)
    else:
        values = np.full(elements, value)
    typed = values.astype(np.float32).view(np.uint32) >> 16 if spec.datatype == BF16 else values
    return Tensor(spec.name, spec.datatype, shape, typed.astype(NUMPY[spec.datatype]).tobytes())


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(_equal_tensors(a, b) for a, b in zip(one, other, strict=True))


def _equal_tensors(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if (tolerance := RELATIVE_TOLERANCE.get(one.datatype)) is None:
        return bytes(one.data) == bytes(other.data)
    return bool(np.allclose(_floats(one), _floats(other), rtol=tolerance, atol=tolerance, equal_nan=True))


def _floats(tensor: Tensor) -> Any:
    array = np.frombuffer(tensor.data, NUMPY[tensor.datatype])
    return from_bfloat16(array) if tensor.datatype == BF16 else array
