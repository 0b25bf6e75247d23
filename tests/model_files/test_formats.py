"""Valid models of each format are accepted and described: tiny ones, and those of the platform."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import save_file

from drw.model_files.description import TensorSignature
from drw.model_files.errors import ModelRejected
from drw.model_files.formats import gguf_header
from drw.model_files.formats import onnx_model as onnx_parser
from drw.model_files.inspection import inspect
from drw.models.engine import weights
from drw.rag.embedding import weights as embedding
from model_files.builders import (
    ARCHITECTURE,
    CHAT_TEMPLATE,
    external,
    gguf_bytes,
    onnx_model,
    tensor,
    write_gguf,
    write_onnx,
    write_safetensors,
)


def test_gguf_file_is_described(tmp_path: Path) -> None:
    description = inspect(write_gguf(tmp_path / "tiny.gguf")).description
    assert description.format == "gguf"
    assert description.architecture == "llama"
    assert description.parameters == 3 * 32 + 5
    assert description.dtypes == (("F32", 2),)
    assert description.context_length == 4096
    assert description.tokenizer == "gpt2"
    assert description.chat_template == CHAT_TEMPLATE
    assert description.licence == "apache-2.0"
    assert description.datasets == ("filings",)


def test_empty_chat_template_counts_as_none(tmp_path: Path) -> None:
    assert inspect(write_gguf(tmp_path / "tiny.gguf", "")).description.chat_template == ""


def test_second_shard_of_split_gguf_needs_no_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    writer.add_tensor("a", np.ones(4, np.float32))
    writer.add_tensor("b", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    inspection = inspect(tmp_path)
    assert len(inspection.manifest.files) == 2
    assert inspection.description.architecture == "llama"
    assert inspection.description.parameters == 12


def test_bundled_chat_model_is_described() -> None:
    spec = find_spec(weights.PACKAGE)
    assert spec is not None and spec.origin is not None
    inspection = inspect(Path(spec.origin).parent / weights.GGUF_NAME)
    assert inspection.manifest.files[0].sha256 == weights.GGUF_SHA256
    description = inspection.description
    assert (description.architecture, description.parameters) == ("llama", 134_515_008)
    assert description.context_length == weights.CONTEXT_LENGTH
    assert description.licence == weights.LICENCE.lower()
    assert "<|im_start|>" in description.chat_template


def test_bundled_embedding_model_is_described_as_safetensors() -> None:
    description = inspect(embedding.find()).description
    assert (description.format, description.architecture) == ("safetensors", "BertModel")
    assert description.parameters == 22_713_728
    assert description.context_length == 512


def test_bundled_embedding_model_is_described_as_onnx(tmp_path: Path) -> None:
    folder = embedding.prepare(tmp_path / "embedding", lambda line: None)
    inspection = inspect(folder)
    assert "model.onnx.data" in {file.path for file in inspection.manifest.files}
    description = inspection.description
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    assert [t.name for t in description.inputs] == [value.name for value in model.graph.input]
    assert [t.name for t in description.outputs] == [value.name for value in model.graph.output]
    assert description.tensors == len(model.graph.initializer)


def test_safetensors_file_is_described_with_its_configuration(tmp_path: Path) -> None:
    description = inspect(write_safetensors(tmp_path)).description
    assert description.format == "safetensors"
    assert description.architecture == "LlamaForCausalLM"
    assert description.parameters == 40
    assert description.dtypes == (("F16", 1), ("F32", 1))
    assert description.context_length == 2048
    assert description.tokenizer == "LlamaTokenizer"
    assert description.chat_template == CHAT_TEMPLATE
    assert (description.licence, description.datasets, description.base_models) == ("mit", ("filings",), ("base",))


def shards(folder: Path, second: str = "b") -> None:
    save_file({"a": np.ones(4, np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file({second: np.ones(2, np.float32)}, folder / "model-00002-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_safetensors_shards_are_counted_together(tmp_path: Path) -> None:
    shards(tmp_path)
    assert inspect(tmp_path).description.parameters == 6


def test_incomplete_safetensors_shards_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, second="c")
    with pytest.raises(ModelRejected, match="names the tensor 'b'"):
        inspect(tmp_path)


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    shards(tmp_path, second="a")
    with pytest.raises(ModelRejected, match="both have the tensor 'a'"):
        inspect(tmp_path)


def test_onnx_signature_has_types_and_shapes(tmp_path: Path) -> None:
    description = inspect(write_onnx(tmp_path / "model.onnx")).description
    assert description.inputs == (TensorSignature("x", "float", ("batch", 4)),)
    assert description.outputs == (TensorSignature("y", "float", ("batch", 2)),)
    assert description.parameters == 8


def test_onnx_external_data_counts_as_parameters(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(bytes(32))
    model = onnx_model(initializers=(external("data/weights.bin", offset=16, length=16),))
    write_onnx(tmp_path / "model.onnx", model)
    assert inspect(tmp_path).description.parameters == 12


def test_onnx_external_data_is_relative_to_its_file(tmp_path: Path) -> None:
    write_onnx(tmp_path / "sub" / "model.onnx", onnx_model(initializers=(external("weights"),)))
    (tmp_path / "sub" / "weights").write_bytes(bytes(16))
    assert inspect(tmp_path).description.format == "onnx"


def test_onnx_function_of_the_model_may_have_any_domain(tmp_path: Path) -> None:
    model = onnx_model(
        helper.make_node("Twice", ["y"], ["z"], domain="local"), opsets=(helper.make_opsetid("local", 1),)
    )
    body = helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], [body], [helper.make_opsetid("", 20)]))
    assert inspect(write_onnx(tmp_path / "model.onnx", model)).description.format == "onnx"


def test_operator_domains_are_a_parameter(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "model.onnx", onnx_model(helper.make_node("Op", ["y"], ["z"], domain="ai.firm")))
    with pytest.raises(ModelRejected):
        inspect(file)
    assert inspect(file, domains={*onnx_parser.DOMAINS, "ai.firm"}).description.format == "onnx"


def test_gguf_tensor_types_are_those_of_the_package() -> None:
    sizes = {kind.value: (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert sizes == gguf_header.TENSOR_TYPES


def test_onnx_types_are_those_of_the_package() -> None:
    numbers = set(onnx.TensorProto.DataType.values())
    assert numbers - onnx_parser.BITS.keys() == {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}


def test_gguf_without_padding_after_the_last_tensor_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(tensors=(tensor("a", (3,)),), data=bytes(12)))
    assert inspect(tmp_path / "m.gguf").description.parameters == 3
    assert ARCHITECTURE in (tmp_path / "m.gguf").read_bytes()


def test_several_formats_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    write_gguf(tmp_path / "model.gguf")
    with pytest.raises(ModelRejected, match="several formats: gguf, safetensors"):
        inspect(tmp_path)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    shutil.copy(write_safetensors(tmp_path / "model") / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelRejected, match="has no GGUF, safetensors or ONNX file"):
        inspect(tmp_path, exclude=("model",))


def test_all_reasons_are_reported(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    (tmp_path / "model.py").write_text("import os")
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(ModelRejected) as raised:
        inspect(tmp_path)
    assert len(raised.value.reasons) == 2
