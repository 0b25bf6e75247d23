"""Port of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drw.rag.embedding.lengths import LengthPolicy, Tokens

Floats = NDArray[np.float32]
Text = str | Tokens
"""A text, or the ids of its tokens."""


@dataclass(frozen=True, slots=True)
class EncodingBatch:
    """Texts of a request that are encoded in one call, bounded so that other requests wait only briefly."""

    positions: tuple[int, ...]
    """The positions of the texts in the request; windows of one text have the same position."""
    ids: tuple[Tokens, ...]
    """The tokens of each text or window."""

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return sum(map(len, self.ids))


class TextEncoder(ABC):
    """Turns text into vectors of length 1. Both methods block: call them in a thread."""

    model: str
    """The model name in requests."""
    dimensions: int

    @abstractmethod
    def tokenize(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        """Tokenise texts, and split the request into batches; each window of a text is in exactly one.

        Raises:
            UnknownToken: a token id is outside the vocabulary.
            TextTooLong: a text exceeds the model's maximum, and `lengths` neither truncates nor splits it.
        """

    @abstractmethod
    def encode(self, batch: EncodingBatch) -> Floats:
        """Return one vector for each text or window of the batch, in order."""
