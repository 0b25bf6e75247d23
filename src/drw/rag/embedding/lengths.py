"""Length policy: fits texts into the token limit of a model by rejecting, truncating or splitting into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drw.kernel.errors import InvalidRequest

Tokens = tuple[int, ...]
ALL_THAT_FIT = -1


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

    def __init__(self, index: int, token: int, size: int) -> None:
        super().__init__(
            f"text {index} has the token id {token}; this model's tokenizer has ids 0 to {size - 1}: "
            "send text, or ids of this tokenizer",
            param="input",
            index=str(index),
        )


def check_tokens(texts: Sequence[str | Tokens], size: int) -> None:
    """Raise `UnknownToken` if a token id is outside the vocabulary."""
    for index, ids in enumerate(texts):
        for wrong in () if isinstance(ids, str) else (min(ids), max(ids)):
            if not 0 <= wrong < size:
                raise UnknownToken(index, wrong, size)


@dataclass(frozen=True, slots=True)
class LengthPolicy:
    """What happens to texts that exceed the token limit of the model."""

    average: bool = False
    """Split them into windows, whose vectors are averaged; else they are refused."""
    truncate: int = 0
    """Keep so many tokens of each text; `ALL_THAT_FIT`: as many as the model takes; 0: all."""

    def windows(self, texts: Sequence[Tokens], limit: int, added: int) -> Iterator[tuple[int, Tokens]]:
        """Yield the index of each text with its tokens, once a window.

        Args:
            texts: the tokens of each text, without those that the model puts around it.
            limit: how many tokens the model takes, with those around it.
            added: how many tokens the model puts around each text.

        Raises:
            TextTooLong: a text does not fit, and neither truncation nor windows were asked for.
            InvalidRequest: `truncate` is out of range.
        """
        keep = self._kept(limit, added)
        window = limit - added
        for index, tokens in enumerate(texts):
            tokens_of_text = tokens[:keep] if keep else tokens
            if len(tokens_of_text) > window and not self.average:
                raise TextTooLong(index, len(tokens_of_text) + added, limit)
            count = max(1, -(-len(tokens_of_text) // window))
            size = -(-len(tokens_of_text) // count)
            for number in range(count):
                yield index, tokens_of_text[number * size : (number + 1) * size]

    def _kept(self, limit: int, added: int) -> int:
        if self.truncate == ALL_THAT_FIT:
            return limit - added
        if self.truncate and not added < self.truncate <= limit:
            raise InvalidRequest(
                f"truncate_prompt_tokens is {self.truncate}; it can be {added + 1} to {limit}, or -1 for {limit}",
                param="truncate_prompt_tokens",
            )
        return self.truncate and self.truncate - added
