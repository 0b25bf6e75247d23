"""Tensors: encoding, frames, splitting, and JSON of every data type; properties over random tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.open_inference import values
from hypothesis import given, settings
from hypothesis import strategies as st

from drw.kernel.errors import InvalidRequest
from drw.models.serving.open_inference.json_tensors import from_json, to_json
from drw.tensors import frames
from drw.tensors.batches import concatenated, split
from drw.tensors.datatypes import (
    DATATYPES,
    NUMPY,
    Tensor,
    TensorError,
    check_data,
    encoded,
    from_bfloat16,
    to_bfloat16,
)
from models.inference import onnx_models
from models.inference.running import infer, predictive, with_models


def tensors(datatype: str) -> st.SearchStrategy[Tensor]:
    """Tensors of the shape [0 to 4, 2]."""

    def build(rows: int, data: bytes) -> Tensor:
        if datatype == "BYTES":
            return Tensor("x", datatype, (rows, 2), encoded(data[i : i + i % 5] for i in range(rows * 2)))
        size = rows * 2 * np.dtype(NUMPY[datatype]).itemsize
        content = (data * (size // max(1, len(data)) + 1))[:size] if data else bytes(size)
        return Tensor("x", datatype, (rows, 2), bytes(b & 1 for b in content) if datatype == "BOOL" else content)

    return st.builds(build, st.integers(0, 4), st.binary(max_size=64))


any_tensor = st.sampled_from(DATATYPES).flatmap(tensors)


@given(any_tensor)
def test_frames_keep_tensors(tensor: Tensor) -> None:
    prefix, header, *parts = frames.encode({"id": 7}, [tensor])
    assert frames.lengths(bytes(prefix)) == (len(header), len(tensor.data))
    decoded, (result,) = frames.decode(bytes(header), b"".join(parts))
    assert decoded == {"id": 7}
    assert (result.name, result.datatype, result.shape) == (tensor.name, tensor.datatype, tensor.shape)
    assert bytes(result.data) == bytes(tensor.data)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_malformed_frames_raise_only_frame_errors(header: bytes, body: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(header + b"!", body)


@given(st.sampled_from(DATATYPES).flatmap(lambda datatype: st.lists(tensors(datatype), min_size=1, max_size=5)))
def test_split_inverts_concatenation(parts: list[Tensor]) -> None:
    joined = concatenated([(part,) for part in parts])
    for (result,), part in zip(split(joined, [part.rows for part in parts]), parts, strict=True):
        assert result.shape == part.shape and bytes(result.data) == bytes(part.data)


def test_split_refuses_another_number_of_rows() -> None:
    with pytest.raises(TensorError, match="for 3 rows"):
        split((Tensor("y", "FP32", (2,), bytes(8)),), [1, 2])


@given(st.sampled_from(DATATYPES), st.binary(max_size=64), st.lists(st.integers(-2, 2**40), max_size=4))
def test_check_data_never_accepts_a_wrong_size(datatype: str, data: bytes, shape: list[int]) -> None:
    try:
        check_data(datatype, shape, data)
    except TensorError:
        return
    assert all(size >= 0 for size in shape)
    if datatype != "BYTES":
        assert len(data) == int(np.prod(shape)) * np.dtype(NUMPY[datatype]).itemsize


@pytest.mark.parametrize("datatype", [d for d in values.SAMPLES if d not in values.NOT_JSON])
def test_json_of_every_data_type(datatype: str) -> None:
    samples = values.samples(datatype)
    expected = values.encode(datatype, samples)
    for data in (samples, [samples[:2], samples[2:]]):
        assert from_json("x", datatype, (2, 2), data) == expected
    restored = list(to_json(Tensor("x", datatype, (2, 2), expected)))
    assert values.encode(datatype, restored) == expected


WRONG: list[tuple[str, Any]] = [
    ("INT8", [128, 0]),
    ("UINT64", [-1, 0]),
    ("UINT64", [2**64, 0]),
    ("INT64", [2**63, 0]),
    ("INT32", [1.0, 2.0]),
    ("INT32", [True, False]),
    ("INT32", [None, None]),
    ("INT32", ["1", "2"]),
    ("BOOL", [0, 1]),
    ("BOOL", ["true", "false"]),
    ("FP32", [1e39, 0]),
    ("FP32", ["1", "2"]),
    ("FP16", [65520, 0]),
    ("BYTES", [1, 2]),
    ("BYTES", [["a"], "b"]),
    ("FP32", [[1], [2]]),
    ("FP32", 7),
    ("FP32", [[1, 2], [3]]),
    ("FP32", [1]),
]


@pytest.mark.parametrize(("datatype", "data"), WRONG)
def test_wrong_json_is_refused(datatype: str, data: Any) -> None:
    with pytest.raises(InvalidRequest):
        from_json("x", datatype, (2,), data)


@settings(max_examples=50)
@given(
    st.sampled_from(DATATYPES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(max_size=2), items, max_size=2),
    ),
)
def test_any_json_is_converted_or_refused(datatype: str, data: Any) -> None:
    try:
        raw = from_json("x", datatype, (2, 2), data)
    except InvalidRequest:
        return
    check_data(datatype, (2, 2), raw)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_bfloat16_is_the_nearest(numbers: list[float]) -> None:
    import ml_dtypes  # an independent implementation

    array = np.array(numbers, np.float32)
    assert to_bfloat16(array).tolist() == array.astype(ml_dtypes.bfloat16).view(np.uint16).tolist()
    assert from_bfloat16(to_bfloat16(array)).tolist() == array.astype(ml_dtypes.bfloat16).astype(np.float32).tolist()


async def test_all_data_types_in_one_request(start: Callable[..., Any], tmp_path: Path) -> None:
    models = with_models(all=predictive(onnx_models.all_types(tmp_path / "all")))
    inputs: list[dict[str, Any]] = []
    for datatype in onnx_models.TYPES.keys() - {"BF16"}:
        data = [1.5, -2.0, 0.0, 4.0] if datatype in values.NOT_JSON else values.samples(datatype)
        inputs.append({"name": f"in_{datatype}", "datatype": datatype, "shape": [2, 2], "data": data})
    async with start(discovery=models, runtime={"preload": False}) as cluster:
        response = await infer(cluster, "all", {"inputs": inputs})
    outputs = {output["datatype"]: output for output in response.json()["outputs"]}
    for item in inputs:
        assert outputs[item["datatype"]]["shape"] == [2, 2]
        encode = values.encode(item["datatype"], outputs[item["datatype"]]["data"])
        assert encode == values.encode(item["datatype"], item["data"]), item["datatype"]
