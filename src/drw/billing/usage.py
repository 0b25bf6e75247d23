"""Usage reported by engines, independent of their API."""

from __future__ import annotations

from typing import NamedTuple


class UsageUpdate(NamedTuple):
    """Usage after one chunk of an answer. Counts are cumulative; None: the engine does not report the count.

    A tuple instead of a dataclass, because every chunk creates one.
    """

    deltas: int = 0
    """Number of outputs with new content in this chunk. Each delta has at least one token."""
    continues: bool = False
    """Whether an output continues after this chunk."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """Tokens of each of `outputs`; with `final`, of all outputs together."""
    outputs: tuple[int, ...] = ()
    """Indexes of the outputs that this chunk belongs to."""
    final: bool = False
    """Whether this is the usage of the complete answer."""
    cached_tokens: int | None = None
    """Input tokens that the engine read from its cache."""
    reasoning_tokens: int | None = None
    """Output tokens that are reasoning."""
    characters: int | None = None
    """Characters of the input, for engines that bill characters."""
