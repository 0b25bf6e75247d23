"""Settings of the embedding service and its adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from drw.kernel.runtime.settings import Settings as Base


class OnnxSettings(Base):
    """Settings of the adapter."""

    folder: Path
    """Where `model.onnx` and `tokenizer.json` are."""
    model: str = "all-minilm-l6-v2"
    """The name that requests may give."""
    portion_tokens: int = 1024
    """The most tokens, padding counted, encoded in one go. More is no faster, and is slower to give way."""
    text_tokens: int = 256
    """The most tokens of one text, two that the model adds counted: it was trained on no more."""
    threads: int = 0
    """0: one a core."""


class Settings(Base):
    """Settings of the service; `encoder` names the adapter."""

    encoder: Literal["onnx"]
    """The adapter that encodes: `onnx`."""
    onnx: OnnxSettings | None = None
    most_waiting_texts: int = 4096
    """More are turned away until some are done."""
