"""Converts a BERT encoder with mean pooling from safetensors to an ONNX graph, without PyTorch.

The inputs of the graph are `input_ids` and `attention_mask` (int64, texts x tokens), its output is
`sentence_embedding` (float32, texts x width, each of length 1). It uses ONNX Runtime's fused operators (domain
`com.microsoft`: Attention, SkipLayerNormalization, BiasGelu), which are a tenth faster than the
standard ones. The architecture is that of Devlin et al., "BERT", 2018; the pooling that of Reimers and
Gurevych, "Sentence-BERT", 2019.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import load_file

DATA = "model.onnx.data"
FUSED = "com.microsoft"
PAGE = 4096
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Model:
    """The two files of a converted model."""

    graph: bytes
    data: bytearray
    """The weights, in a separate file: ONNX Runtime maps it into memory and loads only the rows in use."""


def convert(source: Path) -> Model:
    """Return the model in `source` (config.json, model.safetensors) as ONNX."""
    config = json.loads((source / "config.json").read_text())
    builder = _Builder()
    weights = {name.removeprefix("bert."): array for name, array in load_file(source / "model.safetensors").items()}
    bert = _Bert(builder, weights, config)
    bert.pool(bert.encode())
    return builder.model(width=config["hidden_size"])


class _Builder:
    """Collects the nodes and weights of a graph."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._data = bytearray()

    def node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator; return the name of its output."""
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: type[np.generic] = np.int64) -> str:
        """Add a small constant to the graph."""
        self._weights.append(onnx.numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def weight(self, name: str, array: Array) -> str:
        """Add a weight to the data file, page-aligned."""
        content = np.ascontiguousarray(array, np.float32)
        self._data += b"\0" * (-len(self._data) % PAGE)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=content.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", len(self._data)), ("length", content.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._data += content.tobytes()
        self._weights.append(tensor)
        return name

    def model(self, width: int) -> Model:
        """Return the model."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["texts", width])]
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, self._weights)
        versions = [helper.make_opsetid("", 20), helper.make_opsetid(FUSED, 1)]
        model = helper.make_model(graph, opset_imports=versions)
        model.ir_version = 9
        return Model(model.SerializeToString(), self._data)


class _Bert:
    """Adds the layers of the encoder to a graph; each method returns the name of its output."""

    def __init__(self, builder: _Builder, weights: dict[str, Array], config: dict[str, Any]) -> None:
        self._builder = builder
        self._weights = weights
        self._config = config
        self._epsilon = float(config["layer_norm_eps"])
        builder.constant("first", [0])
        builder.constant("second", [1])
        builder.constant("last", [-1])

    def encode(self) -> str:
        """Add the embeddings and all layers."""
        hidden = self._embed()
        self._builder.node("Cast", ["attention_mask"], "mask_int32", to=TensorProto.INT32)
        for number in range(self._config["num_hidden_layers"]):
            hidden = self._layer(number, hidden)
        return hidden

    def pool(self, hidden: str) -> str:
        """Add mean pooling over the tokens that are not padding, normalised to length 1."""
        b = self._builder
        b.constant("least_count", 1e-9, np.float32)
        b.constant("least_length", 1e-12, np.float32)
        b.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        b.node("Unsqueeze", ["mask", "last"], "mask_column")
        b.node("Mul", [hidden, "mask_column"], "masked")
        b.node("ReduceSum", ["masked", "second"], "sum", keepdims=0)
        b.node("ReduceSum", ["mask", "second"], "count", keepdims=1)
        b.node("Max", ["count", "least_count"], "divisor")
        b.node("Div", ["sum", "divisor"], "mean")
        b.node("ReduceL2", ["mean", "last"], "norm", keepdims=1)
        b.node("Max", ["norm", "least_length"], "length")
        return b.node("Div", ["mean", "length"], "sentence_embedding")

    def _embed(self) -> str:
        b = self._builder
        w = self._weights
        # All tokens have the first token type, so its embedding is added to each position's.
        positions = w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
        b.weight("words", w["embeddings.word_embeddings.weight"])
        b.weight("positions", positions)
        b.node("Gather", ["words", "input_ids"], "word", axis=0)
        b.node("Shape", ["input_ids"], "tokens", start=1, end=2)
        b.node("Slice", ["positions", "first", "tokens", "first"], "position")
        b.node("Add", ["word", "position"], "embedded")
        norm = self._weight_and_bias("embeddings.LayerNorm")
        return b.node("LayerNormalization", ["embedded", *norm], "hidden", axis=-1, epsilon=self._epsilon)

    def _layer(self, number: int, hidden: str) -> str:
        prefix = f"encoder.layer.{number}."
        attended = self._attend(prefix, hidden)
        output, bias = self._linear(prefix + "attention.output.dense", attended)
        hidden = self._add_and_norm(prefix + "attention.output.LayerNorm", output, hidden, bias)
        wide, bias = self._linear(prefix + "intermediate.dense", hidden)
        wide = self._builder.node("BiasGelu", [wide, bias], prefix + "gelu", FUSED)
        output, bias = self._linear(prefix + "output.dense", wide)
        return self._add_and_norm(prefix + "output.LayerNorm", output, hidden, bias)

    def _attend(self, prefix: str, hidden: str) -> str:
        parts = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self._weights[f"{part}.weight"].T for part in parts], axis=1)
        bias = np.concatenate([self._weights[f"{part}.bias"] for part in parts])
        qkv = [self._builder.weight(prefix + "qkv", weight), self._builder.weight(prefix + "qkv_bias", bias)]
        inputs = [hidden, *qkv, "mask_int32"]
        heads = self._config["num_attention_heads"]
        return self._builder.node("Attention", inputs, prefix + "attended", FUSED, num_heads=heads)

    def _linear(self, prefix: str, hidden: str) -> tuple[str, str]:
        weight = self._builder.weight(prefix + ".weight", self._weights[prefix + ".weight"].T)
        bias = self._builder.weight(prefix + ".bias", self._weights[prefix + ".bias"])
        return self._builder.node("MatMul", [hidden, weight], prefix), bias

    def _add_and_norm(self, prefix: str, hidden: str, residual: str, bias: str) -> str:
        inputs = [hidden, residual, *self._weight_and_bias(prefix), bias]
        return self._builder.node("SkipLayerNormalization", inputs, prefix, FUSED, epsilon=self._epsilon)

    def _weight_and_bias(self, prefix: str) -> tuple[str, str]:
        weight, bias = (f"{prefix}.{part}" for part in ("weight", "bias"))
        return self._builder.weight(weight, self._weights[weight]), self._builder.weight(bias, self._weights[bias])
