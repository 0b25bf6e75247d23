"""Length policy: fits texts into the token limit of a model by rejecting, truncating or splitting into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drw.kernel.errors import InvalidRequest

Tokens = tuple[int, ...]
MODEL_MAXIMUM = -1


class TextTooLong(InvalidRequest):
    """A text has more tokens than the model takes; `index`, `tokens` and `limit` are in the metadata."""

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        super().__init__(
            f"text {index} has {tokens} tokens; this model takes at most {limit}",
            code="context_length_exceeded",
            param="input",
            index=str(index),
            tokens=str(tokens),
            limit=str(limit),
        )


class UnknownToken(InvalidRequest):
    """The model has no token of an id; `index` of the text is in the metadata."""

    def __init__(self, index: int, token: int, vocabulary_size: int) -> None:
        super().__init__(
            f"text {index} has the token id {token}; this model's tokenizer has ids 0 to {vocabulary_size - 1}: "
            "send text, or ids of this tokenizer",
            param="input",
            index=str(index),
        )


def check_tokens(texts: Sequence[str | Tokens], vocabulary_size: int) -> None:
    """Raise `UnknownToken` if a token id is outside the vocabulary."""
    for index, ids in enumerate(texts):
        for token in () if isinstance(ids, str) else (min(ids), max(ids)):
            if not 0 <= token < vocabulary_size:
                raise UnknownToken(index, token, vocabulary_size)


@dataclass(frozen=True, slots=True)
class LengthPolicy:
    """How texts that exceed the token limit of the model are handled."""

    average: bool = False
    """Split them into windows and average the vectors of the windows; otherwise they are rejected."""
    truncate: int = 0
    """Maximum tokens of each text; the rest is cut off. `MODEL_MAXIMUM`: the maximum of the model; 0: no truncation."""

    def windows(self, texts: Sequence[Tokens], limit: int, special_tokens: int) -> Iterator[tuple[int, Tokens]]:
        """Yield the index and the tokens of each window; a text that fits is one window.

        Args:
            texts: the tokens of each text, without special tokens.
            limit: the model's maximum of tokens, including special tokens.
            special_tokens: the number of special tokens that the model adds to each text.

        Raises:
            TextTooLong: a text exceeds the limit, and is neither truncated nor split.
            InvalidRequest: `truncate` is out of range.
        """
        kept_tokens = self._kept_tokens(limit, special_tokens)
        window = limit - special_tokens
        for index, tokens in enumerate(texts):
            kept = tokens[:kept_tokens] if kept_tokens else tokens
            if len(kept) > window and not self.average:
                raise TextTooLong(index, len(kept) + special_tokens, limit)
            count = max(1, -(-len(kept) // window))
            size = -(-len(kept) // count)
            for number in range(count):
                yield index, kept[number * size : (number + 1) * size]

    def _kept_tokens(self, limit: int, special_tokens: int) -> int:
        if self.truncate == MODEL_MAXIMUM:
            return limit - special_tokens
        if self.truncate and not special_tokens < self.truncate <= limit:
            raise InvalidRequest(
                f"truncate_prompt_tokens is {self.truncate};"
                f" it can be {special_tokens + 1} to {limit}, or -1 for {limit}",
                param="truncate_prompt_tokens",
            )
        return self.truncate and self.truncate - special_tokens
