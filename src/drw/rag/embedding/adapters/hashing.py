"""Encoder without a model, for tests: feature hashing gives texts that share words similar vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from drw.rag.embedding.lengths import LengthPolicy, Tokens
from drw.rag.embedding.ports import EncodingBatch, Floats, Text, TextEncoder

MULTIPLIERS = np.array([0x9E3779B97F4A7C15 + 2 * 0x632BE59BD9B4E019 * n for n in range(8)], object) % (1 << 64)
FACTORS = MULTIPLIERS.astype(np.uint64) | np.uint64(1)
"""One for each of the eight hashes of a word; odd, so that no two words share all hashes (multiplicative hashing:
Knuth, TAOCP 3, 6.4)."""
BATCH_SIZE = 64
MAX_TOKENS = 1 << 16
WORD = re.compile(r"\w+")


class Hashing(TextEncoder):
    """Deterministic: the same text gives the same vector on every machine."""

    model = "hashing"
    dimensions = 384

    def tokenize(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        ids = [_token_ids(text) if isinstance(text, str) else text for text in texts]
        windows = list(lengths.windows(ids, MAX_TOKENS, special_tokens=0))
        batches = [windows[start : start + BATCH_SIZE] for start in range(0, len(windows), BATCH_SIZE)]
        return [
            EncodingBatch(tuple(position for position, _ in batch), tuple(window for _, window in batch))
            for batch in batches
        ]

    def encode(self, batch: EncodingBatch) -> Floats:
        return np.stack([self._vector(ids) for ids in batch.ids])

    def _vector(self, ids: tuple[int, ...]) -> Floats:
        hashes = (np.array(ids, np.uint64)[:, None] * FACTORS).ravel() >> np.uint64(32)
        signs = np.where(hashes & np.uint64(1), 1.0, -1.0)
        dimensions = (hashes >> np.uint64(1)) % np.uint64(self.dimensions)
        vector = np.bincount(dimensions.astype(np.int64), signs, self.dimensions).astype(np.float32)
        length = float(np.linalg.norm(vector))
        if length == 0:  # no words, or hashes that cancel out
            vector[0] = length = 1.0
        return vector / np.float32(length)


def _token_ids(text: str) -> Tokens:
    words = WORD.findall(text.lower())
    return tuple(int.from_bytes(blake2b(word.encode(), digest_size=8).digest()) for word in words)
