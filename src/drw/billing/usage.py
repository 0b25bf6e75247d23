"""Usage as an engine reports it, in a neutral form."""

from __future__ import annotations

from typing import NamedTuple


class UsageUpdate(NamedTuple):
    """The usage that one step of an answer reports. Counts are totals so far; None: the engine does not report it.

    A tuple and not a dataclass, since every token of every answer makes one.
    """

    pieces: int = 0
    """Outputs that receive something in this step. Each piece has at least one token."""
    continues: bool = False
    """Whether an output goes on after this step."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """Of each of `outputs`, or with `final` of all outputs together."""
    outputs: tuple[int, ...] = ()
    """The outputs that this step belongs to, by index."""
    final: bool = False
    """Whether the engine reports the usage of the whole answer."""
    cached_tokens: int | None = None
    """Input tokens that the engine read from its cache."""
    reasoning_tokens: int | None = None
    """Output tokens that are reasoning."""
    characters: int | None = None
    """Characters of the input, for engines that are billed by them."""
