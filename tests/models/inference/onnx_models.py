"""Small ONNX models for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

OPSET, IR = 17, 9
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
Shape = Sequence[int | str | None]


def write(folder: Path, nodes: Sequence[Any], inputs: Any, outputs: Any, weights: Any = ()) -> Path:
    """Write `model.onnx` with these nodes; inputs and outputs are (name, datatype, shape)."""
    values = [[helper.make_tensor_value_info(n, TYPES[t], list(s)) for n, t, s in part] for part in (inputs, outputs)]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights]
    graph = helper.make_graph(list(nodes), "test", values[0], values[1], constants)
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def identity(folder: Path, datatype: str = "FP32", shape: Shape = ("n", 2)) -> Path:
    """A model with the input `x` and the equal output `y`."""
    return write(
        folder, [helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, shape)], [("y", datatype, shape)]
    )


def scale(folder: Path, factor: float, columns: int = 2) -> Path:
    """A model that multiplies its input `x` by a factor."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    values = ("FP32", ("n", columns))
    return write(folder, [node], [("x", *values)], [("y", *values)], [("factor", np.float32(factor))])


def sum_and_double(folder: Path) -> Path:
    """A model with rows of any length, which returns their `sum` and the `double` of each value."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("Add", ["x", "x"], ["double"]),
    ]
    inputs = [("x", "FP32", ("n", "length"))]
    outputs = [("sum", "FP32", ("n", 1)), ("double", "FP32", ("n", "length"))]
    return write(folder, nodes, inputs, outputs, [("axes", np.array([1], np.int64))])


def all_types(folder: Path) -> Path:
    """A model with an input `in_TYPE` and an equal output `out_TYPE` of each data type except BF16."""
    names = [name for name in TYPES if name != "BF16"]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names]
    inputs, outputs = ([(f"{side}_{name}", name, ("n", 2)) for name in names] for side in ("in", "out"))
    return write(folder, nodes, inputs, outputs)


def mixing(folder: Path) -> Path:
    """A model whose rows affect each other: it subtracts the mean over the batch."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return write(folder, nodes, [("x", "FP32", ("n", 2))], [("y", "FP32", ("n", 2))])


def gather(folder: Path) -> Path:
    """A model that looks up rows by index, and rejects indexes outside of 0 to 3."""
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return write(folder, [node], [("x", "INT64", ("n",))], [("y", "FP32", ("n", 2))], [("table", table)])


def slow(folder: Path, steps: int = 60, size: int = 256) -> Path:
    """A model that multiplies matrices many times."""
    weight = np.eye(size, dtype=np.float32)
    nodes = [
        helper.make_node(
            "MatMul", ["x" if step == 0 else f"h{step}", "w"], ["y" if step == steps - 1 else f"h{step + 1}"]
        )
        for step in range(steps)
    ]
    values = ("FP32", ("n", size))
    return write(folder, nodes, [("x", *values)], [("y", *values)], [("w", weight)])


def divide(folder: Path) -> Path:
    """A model that divides `a` by `b`, with NaN and infinity as possible results."""
    shape = ("FP32", ("n",))
    return write(folder, [helper.make_node("Div", ["a", "b"], ["y"])], [("a", *shape), ("b", *shape)], [("y", *shape)])


def cross_encoder(folder: Path) -> Path:
    """A cross-encoder whose score grows with the share of tokens of the document that are the word `yes`."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2, "yes": 3, "no": 4, "query": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A [SEP] $B:1", special_tokens=[("[SEP]", 2)]
    )
    nodes = [
        helper.make_node("Equal", ["input_ids", "yes"], ["is_yes"]),
        helper.make_node("Cast", ["is_yes"], ["weights"], to=1),
        helper.make_node("ReduceSum", ["weights", "axes"], ["logits"], keepdims=1),
    ]
    inputs = [(name, "INT64", ("n", "length")) for name in ("input_ids", "attention_mask")]
    constants = [("yes", np.int64(3)), ("axes", np.array([1], np.int64))]
    write(folder, nodes, inputs, [("logits", "FP32", ("n", 1))], constants)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 16}))
    return folder
