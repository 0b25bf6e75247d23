"""Settings of the embedding service and its adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from drw.kernel.runtime.settings import Settings as Base


class OnnxSettings(Base):
    """Settings of the adapter."""

    folder: Path
    """The folder of `model.onnx` and `tokenizer.json`."""
    model: str = "all-minilm-l6-v2"
    """The model name in requests."""
    batch_tokens: int = 1024
    """Maximum tokens of one batch, padding included. Larger batches are not faster and delay other requests."""
    text_tokens: int = 256
    """Maximum tokens of one text, with the two that the model adds. It was trained on texts of this length."""
    threads: int = 0
    """0: one for each core."""


class Settings(Base):
    """Settings of the service; `encoder` names the adapter."""

    encoder: Literal["onnx", "hashing"]
    """The adapter that encodes: `onnx`."""
    onnx: OnnxSettings | None = None
    max_waiting_texts: int = 4096
    """Texts in the queue. Further requests are rejected with 429."""
