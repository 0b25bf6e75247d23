"""Small model files: valid ones from the packages of each format, and GGUF and safetensors headers byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
from gguf import GGUFWriter
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from support.json_types import JsonObject

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)
STRING, ARRAY, UINT32 = 8, 9, 4


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))


def gguf_bytes(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    magic: bytes = b"GGUF",
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Return a GGUF file. `counts` replaces the numbers of tensors and entries in its header."""
    entries = (ARCHITECTURE, *entries)
    numbers = counts or (len(tensors), len(entries))
    header = magic + struct.pack("<IQQ", version, *numbers) + b"".join((*entries, *tensors))
    return header + b"\0" * (-len(header) % 32) + data if tensors else header


def safetensors_bytes(header: JsonObject | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def span(dtype: str, shape: list[int], begin: int, end: int) -> JsonObject:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_gguf(file: Path, template: str = CHAT_TEMPLATE) -> Path:
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(4096)
    writer.add_license("apache-2.0")
    writer.add_dataset_name(0, "filings")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([b"a", b"b", b"\xff"])
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones((5,), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_safetensors(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors: JsonObject = {"embed.weight": np.ones((4, 8), np.float32), "norm.weight": np.ones((8,), np.float16)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "chat_template": CHAT_TEMPLATE})
    )
    (folder / "README.md").write_text("---\nlicense: mit\ndatasets:\n- filings\nbase_model: base\n---\n# A model\n")
    return folder


def onnx_model(
    *nodes: onnx.NodeProto,
    initializers: tuple[onnx.TensorProto, ...] = (),
    opsets: tuple[onnx.OperatorSetIdProto, ...] = (),
) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"]), *nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight, *initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), *opsets])


def external(location: str, **numbers: int | str) -> onnx.TensorProto:
    """Return an initializer of four floats in external data."""
    weight = TensorProto(name="external", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **numbers}.items():
        weight.external_data.add(key=key, value=str(value))
    return weight


def write_onnx(file: Path, model: onnx.ModelProto | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model or onnx_model(), str(file))
    return file
