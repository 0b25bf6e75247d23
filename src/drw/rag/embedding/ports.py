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
        """How many tokens the portion has."""
        return sum(map(len, self.ids))


class TextEncoder(ABC):
    """Turns text into vectors of length 1; both methods block, and are called from a thread."""

    model: str
    """The name that requests may give."""
    dimensions: int

    @abstractmethod
    def read(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        """Tokenise texts, and split the request into batches; each window of a text is in exactly one.

        Raises:
            UnknownToken: the model has no token of an id that is given.
            TextTooLong: a text has more tokens than the model takes, and `lengths` does not say what to do.
        """

    @abstractmethod
    def encode(self, portion: EncodingBatch) -> Floats:
        """Return one vector a text of the portion, in its order."""
