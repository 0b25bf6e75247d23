"""Writes the models of the suite: `python -m conformance.open_inference.models FOLDER`, for servers that run ONNX."""

from __future__ import annotations

import sys
from pathlib import Path

from conformance.open_inference.values import SAMPLES

ONNX_TYPES = {"FP16": "FLOAT16", "BF16": "BFLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}


def write(folder: Path) -> dict[str, Path]:
    """Write a model for each data type that returns its input; return their folders by the name of the model."""
    from onnx import TensorProto, helper

    folders = {}
    for datatype in SAMPLES:
        onnx_type = TensorProto.DataType.Value(ONNX_TYPES.get(datatype, datatype))
        values = [helper.make_tensor_value_info(name, onnx_type, ["rows", 2]) for name in ("input", "output")]
        node = helper.make_node("Identity", ["input"], ["output"])
        graph = helper.make_graph([node], "identity", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        name = f"identity_{datatype.lower()}"
        folders[name] = folder / name
        folders[name].mkdir(parents=True, exist_ok=True)
        (folders[name] / "model.onnx").write_bytes(model.SerializeToString())
    return folders


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])).values():
        print(written)
