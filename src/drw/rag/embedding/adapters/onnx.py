"""Encoder on ONNX Runtime with a sentence-transformers model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from drw.kernel.runtime.settings import ConfigError
from drw.rag.embedding.lengths import LengthPolicy, Tokens, check_tokens
from drw.rag.embedding.ports import EncodingBatch, Floats, Text, TextEncoder
from drw.rag.embedding.settings import OnnxSettings

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"


class Onnx(TextEncoder):
    """Loads the model from the folder that `drw.rag.embedding.weights.prepare` fills.

    Texts are sorted by length before they are split into batches: the time of a batch is its size times
    its longest text, so sorting makes mixed texts three times as fast.
    """

    Settings = OnnxSettings

    def __init__(self, settings: OnnxSettings) -> None:
        self._settings = settings
        self.model = settings.model
        self._tokenizer = _tokenizer(settings.folder / "tokenizer.json")
        self._session = _session(settings.folder / "model.onnx", settings.threads or os.cpu_count() or 1)
        self.dimensions = int(self._session.get_outputs()[0].shape[1])

    def tokenize(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        check_tokens(texts, self._tokenizer.get_vocab_size())
        strings = [text for text in texts if isinstance(text, str)]
        encoded = iter(self._tokenizer.encode_batch_fast(strings, add_special_tokens=False))
        tokens = [tuple(next(encoded).ids) if isinstance(text, str) else text for text in texts]
        first, last = self._tokenizer.encode("").ids
        windows = lengths.windows(tokens, self._settings.text_tokens, special_tokens=2)
        return list(self._batches([(position, (first, *ids, last)) for position, ids in windows]))

    def encode(self, batch: EncodingBatch) -> Floats:
        longest = max(map(len, batch.ids))
        tokens = np.zeros((len(batch.ids), longest), np.int64)
        mask = np.zeros_like(tokens)
        for row, ids in enumerate(batch.ids):
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        (vectors,) = self._session.run([OUTPUT], dict(zip(INPUTS, (tokens, mask), strict=True)))
        return cast(Floats, vectors)

    def _batches(self, windows: list[tuple[int, Tokens]]) -> Iterator[EncodingBatch]:
        longest_first = sorted(windows, key=lambda window: len(window[1]), reverse=True)
        while longest_first:
            size = max(1, self._settings.batch_tokens // len(longest_first[0][1]))
            batch, longest_first = longest_first[:size], longest_first[size:]
            yield EncodingBatch(tuple(position for position, _ in batch), tuple(ids for _, ids in batch))


def _tokenizer(file: Path) -> Any:
    if not file.is_file():
        raise ConfigError(
            f"there is no model in {str(file.parent)!r}; create it with `python -m drw.rag.embedding.weights FOLDER`"
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _session(file: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take CPU time from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena would never release the memory of the largest batch.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
