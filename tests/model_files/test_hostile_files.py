"""Hostile model files: each is refused, with its reason."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from drw.model_files.errors import ModelRejected
from drw.model_files.inspection import inspect
from model_files.builders import (
    ARRAY,
    STRING,
    UINT32,
    entry,
    external,
    gguf_bytes,
    onnx_model,
    safetensors_bytes,
    span,
    tensor,
    text,
    write_gguf,
    write_onnx,
    write_safetensors,
)
from support.json_types import Json, JsonObject


class RunsCode:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.system, ("echo",)


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def object_array(archive: bool = False) -> bytes:
    packed = io.BytesIO()
    array = np.array([{"a": 1}], dtype=object)
    if archive:
        np.savez(packed, array=array)
    else:
        np.save(packed, array, allow_pickle=True)
    return packed.getvalue()


EMPTY = b"\0" * 16
ONE = {"a": span("F32", [4], 0, 16)}
HUGE = 1 << 62

FILES: dict[str, tuple[str, bytes, str]] = {
    # pickles
    "pickle-protocol-4.pkl": ("model.pkl", pickle.dumps(RunsCode(), 4), "a pickle, which runs code"),
    "pickle-protocol-0-as-text": ("notes.txt", pickle.dumps(RunsCode(), 0), "a pickle, which runs code"),
    "pickle-named-gguf": ("model.gguf", pickle.dumps(RunsCode(), 2), "not gguf; its content is a pickle"),
    "pickle-named-safetensors": ("model.safetensors", pickle.dumps(RunsCode(), 5), "its content is a pickle"),
    "pickle-named-onnx": ("model.onnx", pickle.dumps(RunsCode(), 3), "its content is a pickle"),
    "pickle-named-json": ("config.json", pickle.dumps({"a": [1, 2]}, 4), "a pickle, which runs code"),
    "torch-zip-named-safetensors": (
        "model.safetensors",
        zipped(**{"archive/data.pkl": pickle.dumps(RunsCode()), "archive/data/0": b"0"}),
        "a PyTorch checkpoint",
    ),
    "torch-zip.pt": ("model.pt", zipped(**{"archive/data.pkl": b""}), "a PyTorch checkpoint"),
    "torch-legacy.bin": ("pytorch_model.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle"),
    "numpy-objects.npy": ("a.npy", object_array(), "a NumPy array"),
    "numpy-objects.npz": ("a.npz", object_array(archive=True), "a NumPy archive"),
    "joblib-compressed": ("a.joblib", b"\x78\x9c" + EMPTY, r"files of the type \.joblib may contain code"),
    "keras.h5": ("a.h5", b"\x89HDF\r\n\x1a\n" + EMPTY, "Lambda layers contain Python code"),
    "keras-archive": ("a.keras", zipped(**{"config.json": b"{}", "model.weights.h5": b""}), "a Keras archive"),
    "zip-after-gguf": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (4,)),), data=EMPTY) + zipped(**{"x/data.pkl": b""}),
        "a PyTorch checkpoint",
    ),
    "python-code": ("modeling.py", b"import os", r"files of the type \.py may contain code"),
    "executable-named-text": ("LICENSE", b"\x7fELF" + EMPTY, "an executable"),
    "binary-named-text": ("vocab.txt", b"a\x00b", "named as a text but is binary"),
    "text-not-utf8": ("vocab.txt", b"\xc3(", "not UTF-8"),
    "json-not-json": ("config.json", b"rm -rf", "named as JSON but is not JSON"),
    "unknown-binary": ("weights.dat", EMPTY, "is refused: it is not GGUF"),
    # content and extension differ
    "safetensors-named-gguf": ("model.gguf", safetensors_bytes(ONE, EMPTY), "its content is safetensors"),
    "gguf-named-safetensors": ("model.safetensors", gguf_bytes(), "its content is gguf"),
    "gguf-named-bin": ("model.bin", gguf_bytes(), r"its name must end with \.gguf"),
    # GGUF
    "gguf-empty": ("model.gguf", b"", "truncated"),
    "gguf-version-1": ("model.gguf", gguf_bytes(version=1), "has GGUF version 1"),
    "gguf-big-endian": ("model.gguf", gguf_bytes(version=3 << 24), "is big-endian"),
    "gguf-entry-count": ("model.gguf", gguf_bytes(counts=(0, HUGE)), "metadata entries; the maximum"),
    "gguf-tensor-count": ("model.gguf", gguf_bytes(counts=(HUGE, 1)), "tensors; the maximum"),
    "gguf-count-beyond-end": ("model.gguf", gguf_bytes(counts=(0, 9)), "truncated"),
    "gguf-string-length": (
        "model.gguf",
        gguf_bytes(entry("a", STRING, struct.pack("<Q", HUGE))),
        "bytes of 'a'; the maximum",
    ),
    "gguf-string-beyond-end": ("model.gguf", gguf_bytes(entry("a", STRING, struct.pack("<Q", 999))), "truncated"),
    "gguf-array-length": (
        "model.gguf",
        gguf_bytes(entry("a", ARRAY, struct.pack("<IQ", UINT32, HUGE))),
        "items of 'a'; the maximum",
    ),
    "gguf-nested-arrays": (
        "model.gguf",
        gguf_bytes(entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))),
        "an array of arrays",
    ),
    "gguf-unknown-type": ("model.gguf", gguf_bytes(entry("a", 99, b"")), r"invalid value or type \(99\)"),
    "gguf-bool-of-2": ("model.gguf", gguf_bytes(entry("a", 7, b"\x02")), r"invalid value or type \(7\)"),
    "gguf-duplicate-key": (
        "model.gguf",
        gguf_bytes(entry("general.architecture", STRING, text("bert"))),
        "'general.architecture' twice",
    ),
    "gguf-key-not-ascii": ("model.gguf", gguf_bytes(entry("a\n", UINT32, EMPTY[:4])), "keys are printable ASCII"),
    "gguf-value-not-utf8": ("model.gguf", gguf_bytes(entry("a", STRING, text(b"\xff"))), "not UTF-8"),
    "gguf-alignment": (
        "model.gguf",
        gguf_bytes(entry("general.alignment", UINT32, struct.pack("<I", 24))),
        "must be a power of two",
    ),
    "gguf-alignment-0": (
        "model.gguf",
        gguf_bytes(entry("general.alignment", UINT32, struct.pack("<I", 0))),
        "must be a power of two",
    ),
    "gguf-dimensions": ("model.gguf", gguf_bytes(tensors=(tensor("a", (1,) * 5),)), "has 5 dimensions"),
    "gguf-shape-overflow": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (1 << 33, 1 << 33)),), data=EMPTY),
        "impossible shape",
    ),
    "gguf-shape-zero": ("model.gguf", gguf_bytes(tensors=(tensor("a", (0,)),)), "impossible shape"),
    "gguf-tensor-type": ("model.gguf", gguf_bytes(tensors=(tensor("a", (4,), 38),), data=EMPTY), "unknown type 38"),
    "gguf-tensor-block": ("model.gguf", gguf_bytes(tensors=(tensor("a", (4,), 2),), data=EMPTY), "Q4_0 packs 32"),
    "gguf-tensor-offset": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (4,), offset=HUGE),), data=EMPTY),
        "without gaps or overlaps",
    ),
    "gguf-tensor-overlap": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (4,)), tensor("b", (4,))), data=EMPTY),
        "without gaps or overlaps",
    ),
    "gguf-tensor-twice": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (4,)), tensor("a", (4,), offset=32)), data=EMPTY * 3),
        "'a' twice",
    ),
    "gguf-tensor-beyond-end": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (5,)),), data=EMPTY),
        "lacks 4 bytes of tensor data",
    ),
    "gguf-trailing-bytes": (
        "model.gguf",
        gguf_bytes(tensors=(tensor("a", (4,)),), data=EMPTY * 9),
        "after its last tensor",
    ),
    # safetensors
    "safetensors-short": ("model.safetensors", b"\x08\x00", "truncated"),
    "safetensors-header-length": ("model.safetensors", safetensors_bytes(b"{}", length=HUGE), "the maximum is"),
    "safetensors-header-beyond-end": ("model.safetensors", safetensors_bytes(b"{}", length=99), "it is truncated"),
    "safetensors-header-not-json": ("model.safetensors", safetensors_bytes(b"{]"), "the header is malformed"),
    "safetensors-header-not-object": ("model.safetensors", safetensors_bytes(b"[]"), "does not begin with"),
    "safetensors-deep-json": (
        "model.safetensors",
        safetensors_bytes(b'{"a":' + b"[" * 100_000),
        "nested too deeply",
    ),
    "safetensors-duplicate-key": (
        "model.safetensors",
        safetensors_bytes(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"0",
        ),
        "the key 'a' twice",
    ),
    "safetensors-surrogate": (
        "model.safetensors",
        safetensors_bytes(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"0"),
        "not valid Unicode",
    ),
    "safetensors-nan": ("model.safetensors", safetensors_bytes(b'{"a":NaN}'), "NaN is not JSON"),
    "safetensors-number-of-digits": (
        "model.safetensors",
        safetensors_bytes(b'{"a":' + b"9" * 5000 + b"}"),
        "the header is malformed",
    ),
    "safetensors-dtype": ("model.safetensors", safetensors_bytes({"a": span("OBJ", [1], 0, 1)}, b"0"), "unknown dtype"),
    "safetensors-field": (
        "model.safetensors",
        safetensors_bytes({"a": span("U8", [1], 0, 1) | {"hook": "x"}}, b"0"),
        "must have the fields",
    ),
    "safetensors-shape-negative": (
        "model.safetensors",
        safetensors_bytes({"a": span("U8", [-1, -1], 0, 1)}, b"0"),
        "invalid shape",
    ),
    "safetensors-shape-boolean": (
        "model.safetensors",
        safetensors_bytes({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"0"),
        "invalid shape",
    ),
    "safetensors-shape-overflow": (
        "model.safetensors",
        safetensors_bytes({"a": span("F32", [1 << 62, 1 << 62], 0, 0)}),
        "does not match F32",
    ),
    "safetensors-offsets-reversed": (
        "model.safetensors",
        safetensors_bytes({"a": span("U8", [1], 1, 0)}, b"0"),
        "invalid data_offsets",
    ),
    "safetensors-size": (
        "model.safetensors",
        safetensors_bytes({"a": span("F32", [3], 0, 16)}, EMPTY),
        "not match F32",
    ),
    "safetensors-overlap": (
        "model.safetensors",
        safetensors_bytes({"a": span("U8", [8], 0, 8), "b": span("U8", [8], 4, 12)}, EMPTY[:12]),
        "overlaps another tensor",
    ),
    "safetensors-gap": (
        "model.safetensors",
        safetensors_bytes({"a": span("U8", [4], 0, 4), "b": span("U8", [4], 8, 12)}, EMPTY[:12]),
        "follows a gap",
    ),
    "safetensors-trailing-bytes": ("model.safetensors", safetensors_bytes(ONE, EMPTY * 2), "its tensors take 16"),
    "safetensors-beyond-end": ("model.safetensors", safetensors_bytes(ONE, EMPTY[:8]), "its tensors take 16"),
    "safetensors-metadata": (
        "model.safetensors",
        safetensors_bytes({"__metadata__": {"a": 1}}),
        "must map texts to texts",
    ),
    # ONNX, byte by byte
    "onnx-empty": ("model.onnx", b"", "no graph"),
    "onnx-truncated": ("model.onnx", b"\x08\x0a\x3a\xff\x01", "beyond the end of its message"),
    "onnx-unknown-field": ("model.onnx", b"\x08\x0a\xfa\x06\x00", "unknown field 111 of ModelProto"),
    "onnx-group": ("model.onnx", b"\x0b\x0c", "the wire type 3"),
    "onnx-endless-number": ("model.onnx", b"\x08" + b"\xff" * 12, "an invalid number"),
    "onnx-length-overflow": ("model.onnx", b"\x08\x0a\x3a" + b"\xff" * 9 + b"\x01", "beyond the end"),
    "onnx-two-graphs": ("model.onnx", b"\x08\x0a\x3a\x00\x3a\x00", "the field 'graph' of ModelProto twice"),
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    file, content, reason = FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelRejected, match=reason):
        inspect(tmp_path)


def nested(depth: int) -> NodeProto:
    """Return a node with subgraphs inside each other."""
    node = helper.make_node("Identity", ["x"], ["z"])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["z"], then_branch=helper.make_graph([node], "g", [], []))
    return node


def raw(**fields: Json) -> TensorProto:
    values: JsonObject = {"name": "t", "dims": [4], "data_type": TensorProto.FLOAT, "raw_data": EMPTY}
    return TensorProto(**(values | fields))


MODELS = {
    "custom-operator": (onnx_model(helper.make_node("Run", ["y"], ["z"], domain="evil")), "custom operator 'Run'"),
    "custom-domain": (onnx_model(opsets=(helper.make_opsetid("evil", 1),)), "operator domain 'evil'"),
    "custom-operator-in-subgraph": (
        onnx_model(
            helper.make_node(
                "If",
                ["c"],
                ["z"],
                then_branch=helper.make_graph([helper.make_node("Run", [], ["z"], domain="evil")], "g", [], []),
            )
        ),
        "custom operator 'Run'",
    ),
    "compiled-context": (onnx_model(helper.make_node("EPContext", [], ["z"], domain="com.microsoft")), "loads code"),
    "nested-subgraphs": (onnx_model(nested(25)), "nests subgraphs deeper"),
    "raw-size": (onnx_model(initializers=(raw(raw_data=b"0"),)), "has 1 bytes of data"),
    "no-data": (onnx_model(initializers=(TensorProto(name="t", dims=[4], data_type=1),)), "has no data"),
    "negative-shape": (onnx_model(initializers=(raw(dims=[-4]),)), "impossible shape"),
    "shape-overflow": (onnx_model(initializers=(raw(dims=[1 << 40, 1 << 40]),)), "impossible shape"),
    "data-type": (onnx_model(initializers=(raw(data_type=99),)), "unknown data type 99"),
    "external-absolute": (onnx_model(initializers=(external("/etc/passwd"),)), "outside the model folder"),
    "external-parent": (onnx_model(initializers=(external("../secret"),)), "outside the model folder"),
    "external-parent-inside": (onnx_model(initializers=(external("a/../../secret"),)), "outside the model folder"),
    "external-url": (onnx_model(initializers=(external("http://host/data"),)), "outside the model folder"),
    "external-backslash": (onnx_model(initializers=(external("..\\secret"),)), "outside the model folder"),
    "external-memory-address": (
        onnx_model(initializers=(external("*/_ORT_MEM_ADDR_/*", offset=4096, length=16),)),
        "not a file of the model",
    ),
    "external-itself": (onnx_model(initializers=(external("model.onnx"),)), "not a file of the model"),
    "external-missing": (onnx_model(initializers=(external("missing"),)), "not a file of the model"),
    "external-no-location": (onnx_model(initializers=(external(""),)), "outside the model folder"),
    "external-offset": (onnx_model(initializers=(external("data.bin", offset=8),)), "beyond the end of data.bin"),
    "external-offset-negative": (onnx_model(initializers=(external("data.bin", offset=-8),)), "invalid number '-8'"),
    "external-offset-overflow": (
        onnx_model(initializers=(external("data.bin", offset=1 << 64),)),
        "invalid number '18446744073709551616'",
    ),
    "external-length": (onnx_model(initializers=(external("data.bin", length=8),)), "has 8 bytes of external data"),
    "external-unknown-key": (onnx_model(initializers=(external("data.bin", hook="x"),)), "unknown key 'hook'"),
    "external-and-own-data": (
        onnx_model(initializers=(raw(data_location=TensorProto.EXTERNAL),)),
        "both external and own data",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_hostile_onnx_model_is_refused(name: str, tmp_path: Path) -> None:
    model, reason = MODELS[name]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data.bin").write_bytes(EMPTY)
    (tmp_path / "secret").write_bytes(EMPTY)
    (tmp_path / "model" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRejected, match=reason):
        inspect(tmp_path / "model")


def test_external_data_through_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model" / "model.onnx", onnx_model(initializers=(external("data.bin"),)))
    (tmp_path / "secret").write_bytes(EMPTY)
    (tmp_path / "model" / "data.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelRejected, match="symbolic link"):
        inspect(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content"),
    [("data.pkl", EMPTY), ("data.bin", pickle.dumps(RunsCode(), 4)), ("data.bin", zipped(**{"data.pkl": EMPTY}))],
    ids=["extension", "pickle", "archive"],
)
def test_external_data_with_code_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content + EMPTY if name == "data.pkl" else content)
    size = 4 * (len(content) // 4)
    weight = external(name)
    weight.dims[0] = size // 4
    write_onnx(tmp_path / "model.onnx", onnx_model(initializers=(weight,)))
    with pytest.raises(ModelRejected, match="is refused"):
        inspect(tmp_path)


def test_hostile_chat_template_in_a_gguf_file_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", "{{ messages.__class__.__mro__ }}")
    with pytest.raises(ModelRejected, match="chat template is unsafe"):
        inspect(file)


def test_hostile_chat_template_in_a_configuration_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for i in range(10**9) %}{% endfor %}")
    with pytest.raises(ModelRejected, match="chat template"):
        inspect(tmp_path)
