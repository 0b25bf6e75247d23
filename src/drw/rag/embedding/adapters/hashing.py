"""Encodes without a model: each word votes for a few dimensions, so texts that share words are near."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from drw.rag.embedding.ports import Floats, Portion, TextEncoder

VOTES = 8
PORTION = 64
WORD = re.compile(r"\w+")


class Hashing(TextEncoder):
    """Good enough for tests and first runs: the same text gives the same vector everywhere, for good."""

    model = "hashing"
    dimensions = 384

    def read(self, texts: Sequence[str]) -> list[Portion]:
        ids = [tuple(_number(word) for word in WORD.findall(text.lower())) for text in texts]
        starts = range(0, len(ids), PORTION)
        return [Portion(tuple(range(len(ids)))[s : s + PORTION], tuple(ids[s : s + PORTION])) for s in starts]

    def encode(self, portion: Portion) -> Floats:
        return np.stack([self._vector(ids) for ids in portion.ids])

    def _vector(self, ids: tuple[int, ...]) -> Floats:
        vector = np.zeros(self.dimensions, np.float32)
        for number in ids:
            votes = np.random.default_rng(number)
            vector[votes.integers(0, self.dimensions, VOTES)] += votes.choice((-1.0, 1.0), VOTES)
        length = float(np.linalg.norm(vector))
        if length == 0:  # no words, or votes that cancel out
            vector[0] = length = 1.0
        return vector / np.float32(length)


def _number(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
