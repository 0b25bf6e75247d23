"""Description of a model, read from the headers and configuration of its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["gguf", "safetensors", "onnx"]
MAX_CHARACTERS = 1000
"""Of a descriptive text."""


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """An input or output. A dimension is a number, or a name if it varies; `shape` is None if the rank is unknown."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class Description:
    """A model. Unknown texts are empty, unknown numbers 0."""

    format: Format
    architecture: str = ""
    parameters: int = 0
    """Elements of all tensors."""
    tensors: int = 0
    dtypes: tuple[tuple[str, int], ...] = ()
    """Data types with their number of tensors."""
    context_length: int = 0
    cache_token_bytes: int = 0
    """Bytes of the key-value cache of one token in 16 bits, at most."""
    inputs: tuple[TensorSignature, ...] = ()
    """Of an ONNX model."""
    outputs: tuple[TensorSignature, ...] = ()
    tokenizer: str = ""
    chat_template: str = ""
    """The default Jinja template."""
    licence: str = ""
    datasets: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Header:
    """Result of one format parser: what one file adds to the description of its model."""

    description: Description
    tensor_names: frozenset[str] = frozenset()
    templates: tuple[tuple[str, str], ...] = ()
    """Chat templates by name; the default has the name `default`."""
    external_files: frozenset[str] = frozenset()
    """Files that an ONNX model refers to."""


def text(value: Any) -> str:
    """Return a descriptive text of bounded length, or an empty one for any other type."""
    if not isinstance(value, str):
        return ""
    return value.strip()[:MAX_CHARACTERS].encode(errors="replace").decode()  # YAML permits unpaired surrogates


def texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a list, or of a single text."""
    if isinstance(value, str):
        value = [value]
    return tuple(filter(None, map(text, value[:100]))) if isinstance(value, list | tuple) else ()


def count(value: Any) -> int:
    """Return a number, or 0 for any other value."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63 else 0


def counted(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Return each name with its number of occurrences, the most frequent first."""
    numbers: dict[str, int] = {}
    for name in names:
        numbers[name] = numbers.get(name, 0) + 1
    return tuple(sorted(numbers.items(), key=lambda item: (-item[1], item[0])))
