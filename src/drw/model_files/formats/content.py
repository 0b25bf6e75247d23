"""File types by content, and the file names that a model may have."""

from __future__ import annotations

import pickletools
from pathlib import PurePosixPath

MODEL_EXTENSIONS = {".gguf": "gguf", ".safetensors": "safetensors", ".onnx": "onnx"}
TEXT_EXTENSIONS = frozenset((".json", ".jsonl", ".txt", ".md", ".jinja", ".yaml", ".yml", ".toml"))
TEXT_NAMES = frozenset(("LICENSE", "LICENCE", "NOTICE", "README", "COPYING", "USE_POLICY"))
CODE_EXTENSIONS = frozenset(
    (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".hdf5", ".keras", ".pb", ".tflite")
    + (".py", ".pyc", ".sh", ".so", ".dll", ".dylib", ".exe", ".js", ".lua", ".jar", ".whl", ".zip", ".tar", ".gz")
)
"""Also refused as names of external data."""

BINARY = (
    (b"GGUF", "gguf"),
    (b"\x93NUMPY", "a NumPy array, which may contain pickled objects"),
    (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it: Lambda layers contain Python code"),
    (b"\x7fELF", "an executable"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!", "RAR"),
    (b"!<arch>", "an object archive"),
)
"""Content at the beginning of a file and its type."""
CODE_OPCODES = frozenset(("GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"))
HEAD = 1 << 16
"""Bytes from the beginning, and from the end, of a file that are examined."""


def content_type(head: bytes, tail: bytes) -> str:
    """Return `gguf`, `safetensors`, or the description of a refused type; empty for all others."""
    if head.startswith(b"PK\x03\x04") or _ends_with_archive(tail):  # first, since readers of ZIP look at the end only
        return _archive(head + tail)
    for magic, name in BINARY:
        if head.startswith(magic):
            return name
    if head.startswith(b"MZ") and b"PE\x00\x00" in head[:1024]:
        return "an executable"
    if head[4:8] == b"TFL3":
        return "TensorFlow Lite"
    if head[257:262] == b"ustar":
        return "tar"
    if is_pickle(head):
        return "a pickle, which runs code when it is loaded"
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    return ""


def is_pickle(head: bytes) -> bool:
    """Return whether the bytes begin with a pickle of any protocol, complete or not."""
    binary = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5
    count, code = 0, False
    try:
        for opcode, _, _ in pickletools.genops(head):
            if opcode.name == "STOP":
                return binary or code
            count += 1
            code |= opcode.name in CODE_OPCODES
            if count > 1000:
                break
    except (ValueError, OverflowError, LookupError):
        pass
    return (binary and count > 3) or (code and count > 6)


def is_text_name(path: str) -> bool:
    """Return whether a file may be a text: documentation, configuration or a vocabulary."""
    name = PurePosixPath(path)
    return name.suffix.lower() in TEXT_EXTENSIONS or name.name.upper() in TEXT_NAMES


def _ends_with_archive(tail: bytes) -> bool:
    """Return whether an end record of ZIP is in the tail, followed by exactly the comment that it declares."""
    at = tail.rfind(b"PK\x05\x06")
    return at >= 0 and len(tail) - at >= 22 and int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail) - at - 22


def _archive(data: bytes) -> str:
    if b"data.pkl" in data:
        return "a PyTorch checkpoint, which contains a pickle"
    if b".npy" in data:
        return "a NumPy archive, which may contain pickled objects"
    if b"config.json" in data and b".weights.h5" in data:
        return "a Keras archive: Lambda layers contain Python code"
    return "a ZIP archive"
