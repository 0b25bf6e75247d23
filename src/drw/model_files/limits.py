"""Limits on the size and structure of model files."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of a check. Sizes are bytes."""

    files: int = 1000
    total_bytes: int = 2 * TIB
    folder_depth: int = 8
    path_characters: int = 512

    text_bytes: int = 64 * MIB
    """One text file, such as `tokenizer.json`."""
    config_bytes: int = 4 * MIB
    """A JSON file that is parsed, such as `config.json`."""

    tensors: int = 100_000
    metadata_entries: int = 10_000
    metadata_bytes: int = 128 * MIB
    """Header of a GGUF file: metadata and tensor descriptions."""
    array_items: int = 4_000_000
    """Items of all arrays of texts in the metadata of a GGUF file; items of one array of numbers."""
    string_bytes: int = 64 * MIB
    """One string in the metadata of a GGUF file."""
    kept_string_bytes: int = MIB
    """Longer strings of the metadata are skipped, not read into memory."""
    safetensors_header_bytes: int = 16 * MIB
    """Parsing takes about 25 times as much memory. The format permits 100 MB."""

    onnx_bytes: int = 2 << 30
    """Protobuf's maximum."""
    onnx_fields: int = 2_000_000
    """Protobuf fields of one ONNX file."""
    onnx_depth: int = 64
    """Nested messages; each subgraph takes three levels."""
    tensor_dimensions: int = 64

    templates: int = 20
    template_bytes: int = 256 * KIB
    rendered_characters: int = 1 << 20
    """Output of a chat template."""
    template_memory_bytes: int = 256 * MIB
    """Address space of the process that renders a chat template."""
    template_cpu_seconds: int = 5
    template_wall_seconds: int = 30
    bundle_bytes: int = 4 * MIB
    """Signature bundle."""
    certificates: int = 8
    """Certificates of one bundle."""


DEFAULT = Limits()
