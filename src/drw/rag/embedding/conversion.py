"""Converts a BERT encoder with mean pooling from safetensors to an ONNX graph, without PyTorch.

The graph takes `input_ids` and `attention_mask` (int64, texts x tokens) and gives `sentence_embedding`
(float32, texts x width, each of length 1). It uses ONNX Runtime's fused operators (domain
`com.microsoft`: Attention, SkipLayerNormalization, BiasGelu), which are a tenth faster than the
plain ones. The architecture is that of Devlin et al., "BERT", 2018; the pooling that of Reimers and
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
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._data = bytearray()

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator; return the name of its output."""
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, values: Any, kind: type[np.generic] = np.int64) -> str:
        """Add a small constant to the graph."""
        self._weights.append(onnx.numpy_helper.from_array(np.array(values, kind), name))
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
    """Writes the encoder, one step after the other; each method returns the name of its result."""

    def __init__(self, builder: _Builder, weights: dict[str, Array], config: dict[str, Any]) -> None:
        self._b = builder
        self._weights = weights
        self._config = config
        self._epsilon = float(config["layer_norm_eps"])
        builder.constant("first", [0])
        builder.constant("second", [1])
        builder.constant("last", [-1])

    def encode(self) -> str:
        """Write embeddings and layers."""
        hidden = self._embed()
        self._b.node("Cast", ["attention_mask"], "mask_int32", to=TensorProto.INT32)
        for number in range(self._config["num_hidden_layers"]):
            hidden = self._layer(number, hidden)
        return hidden

    def pool(self, hidden: str) -> str:
        """Write the mean over the tokens that are not padding, brought to length 1."""
        b = self._b
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
        b = self._b
        w = self._weights
        # Every token is of the first type here, so its embedding is a part of the position's.
        positions = w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
        b.weight("words", w["embeddings.word_embeddings.weight"])
        b.weight("positions", positions)
        b.node("Gather", ["words", "input_ids"], "word", axis=0)
        b.node("Shape", ["input_ids"], "tokens", start=1, end=2)
        b.node("Slice", ["positions", "first", "tokens", "first"], "position")
        b.node("Add", ["word", "position"], "embedded")
        norm = self._pair("embeddings.LayerNorm")
        return b.node("LayerNormalization", ["embedded", *norm], "hidden", axis=-1, epsilon=self._epsilon)

    def _layer(self, number: int, hidden: str) -> str:
        at = f"encoder.layer.{number}."
        attended = self._attend(at, hidden)
        output, bias = self._linear(at + "attention.output.dense", attended)
        hidden = self._add_and_norm(at + "attention.output.LayerNorm", output, hidden, bias)
        wide, bias = self._linear(at + "intermediate.dense", hidden)
        wide = self._b.node("BiasGelu", [wide, bias], at + "gelu", FUSED)
        output, bias = self._linear(at + "output.dense", wide)
        return self._add_and_norm(at + "output.LayerNorm", output, hidden, bias)

    def _attend(self, at: str, hidden: str) -> str:
        parts = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self._weights[f"{part}.weight"].T for part in parts], axis=1)
        bias = np.concatenate([self._weights[f"{part}.bias"] for part in parts])
        inputs = [hidden, self._b.weight(at + "qkv", weight), self._b.weight(at + "qkv_bias", bias), "mask_int32"]
        heads = self._config["num_attention_heads"]
        return self._b.node("Attention", inputs, at + "attended", FUSED, num_heads=heads)

    def _linear(self, at: str, hidden: str) -> tuple[str, str]:
        weight = self._b.weight(at + ".weight", self._weights[at + ".weight"].T)
        bias = self._b.weight(at + ".bias", self._weights[at + ".bias"])
        return self._b.node("MatMul", [hidden, weight], at), bias

    def _add_and_norm(self, at: str, hidden: str, skipped: str, bias: str) -> str:
        inputs = [hidden, skipped, *self._pair(at), bias]
        return self._b.node("SkipLayerNormalization", inputs, at, FUSED, epsilon=self._epsilon)

    def _pair(self, at: str) -> tuple[str, str]:
        return tuple(self._b.weight(f"{at}.{part}", self._weights[f"{at}.{part}"]) for part in ("weight", "bias"))  # type: ignore[return-value]
