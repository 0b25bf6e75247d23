"""Bounds on regular expressions in JSON schemas: what an engine may be asked to follow, found without running one."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BYTES = 1024
MAX_REPEAT = 1000
MAX_SIZE = 10_000
"""Characters that a pattern asks for with every repetition written out."""
MAX_ALTERNATIVES = 256
MAX_DEPTH = 32
UNBOUNDED = 1 << 30
QUANTIFIER = re.compile(r"[*+?]|\{(\d+)(?:(,)(\d*))?\}")
LOOK_AROUND = re.compile(r"\(\?<?[=!]")
GROUP = re.compile(r"\(\?(?::|P?<[A-Za-z_]\w*>)")


class PatternError(ValueError):
    """A pattern is malformed, or out of bounds; the message says how, and what would be right."""


class Node(NamedTuple):
    """What a part of a pattern can match."""

    size: int
    """Its characters, with repetitions written out."""
    empty: bool
    """Whether it matches nothing at all."""
    repeats: bool
    """Whether a single unbounded repetition inside it can make up the whole match."""


def check_pattern(pattern: str, *, look_around: bool = False) -> None:
    """Refuse a pattern that is too large, malformed, ambiguous in its repetitions, or that may not look around.

    Raises:
        PatternError: the first fault.
    """
    if len(pattern.encode(errors="replace")) > MAX_BYTES:
        raise PatternError(f"it has {len(pattern)} characters; at most {MAX_BYTES} bytes")
    reader = _Reader(pattern, look_around)
    node = reader.alternatives(0)
    if reader.rest:
        raise PatternError(f"')' at {reader.at} closes no group")
    if node.size > MAX_SIZE:
        raise PatternError(f"it repeats to {node.size} characters; at most {MAX_SIZE}: repeat less")


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str, look_around: bool) -> None:
        self._pattern = pattern
        self._look_around = look_around
        self.at = 0
        self._alternatives = 0

    @property
    def rest(self) -> bool:
        return self.at < len(self._pattern)

    def alternatives(self, depth: int) -> Node:
        """Read up to the end of the group."""
        if depth > MAX_DEPTH:
            raise PatternError(f"its groups are nested deeper than {MAX_DEPTH}")
        branches = [self._sequence(depth)]
        while self._take("|"):
            branches.append(self._sequence(depth))
            self._alternatives += 1
            if self._alternatives >= MAX_ALTERNATIVES:
                raise PatternError(f"it has more than {MAX_ALTERNATIVES} alternatives; use an enum")
        size = sum(each.size for each in branches)
        return Node(size, any(each.empty for each in branches), any(each.repeats for each in branches))

    def _sequence(self, depth: int) -> Node:
        parts = []
        while self.rest and self._pattern[self.at] not in "|)":
            parts.append(self._quantified(depth))
        filled = [part for part in parts if not part.empty]
        repeats = any(part.repeats and all(p is part for p in filled) for part in parts)
        return Node(sum(part.size for part in parts), not filled, repeats)

    def _quantified(self, depth: int) -> Node:
        begun = self.at
        atom = self._atom(depth)
        if (match := QUANTIFIER.match(self._pattern, self.at)) is None:
            return atom
        self.at = match.end()
        minimum, maximum = _counts(match)
        text = self._pattern[begun : self.at]
        if minimum > maximum:
            raise PatternError(f"{match[0]!r} has its bounds reversed: write {{{maximum},{minimum}}}")
        if max(minimum, 0 if maximum == UNBOUNDED else maximum) > MAX_REPEAT:
            raise PatternError(f"{match[0]!r} repeats more than {MAX_REPEAT} times: use maxLength for long texts")
        if maximum > 1 and (atom.empty or atom.repeats):
            raise PatternError(
                f"{text[:40]!r} repeats what can match in more than one way: "
                "separate the repetitions, as in (\\w+ )*\\w+ in place of (\\w+ ?)*"
            )
        if not (self._take("?") or self._take("+")) and QUANTIFIER.match(self._pattern, self.at):
            raise PatternError(f"nothing to repeat at {self.at}")
        size = atom.size * max(1, minimum, 1 if maximum == UNBOUNDED else maximum)
        if size > MAX_SIZE:
            raise PatternError(f"{text[:40]!r} repeats to {size} characters; at most {MAX_SIZE}: repeat less")
        return Node(size, atom.empty or minimum == 0, maximum == UNBOUNDED or atom.repeats)

    def _atom(self, depth: int) -> Node:
        if QUANTIFIER.match(self._pattern, self.at):
            raise PatternError(f"nothing to repeat at {self.at}")
        if self._pattern[self.at] == "(":
            return self._group(depth)
        if self._pattern[self.at] == "[":
            return self._class()
        if self._pattern[self.at] == "\\":
            return self._escape()
        anchor = self._pattern[self.at] in "^$"
        self.at += 1
        return Node(0 if anchor else 1, anchor, repeats=False)

    def _group(self, depth: int) -> Node:
        looks = LOOK_AROUND.match(self._pattern, self.at) if self._look_around else None
        opening = looks or GROUP.match(self._pattern, self.at)
        if opening is None and self._pattern.startswith("(?", self.at):
            raise PatternError(f"{self._pattern[self.at : self.at + 4]!r} is not supported: no look-around, no flags")
        self.at = opening.end() if opening else self.at + 1
        node = self.alternatives(depth + 1)
        if not self._take(")"):
            raise PatternError("a group is not closed")
        return Node(node.size, empty=True, repeats=False) if looks else node

    def _class(self) -> Node:
        self.at += 1
        self._take("^")
        self._take("]")
        while self.rest and self._pattern[self.at] != "]":
            self.at += 2 if self._pattern[self.at] == "\\" else 1
        if not self._take("]"):
            raise PatternError("a character class is not closed")
        return Node(1, empty=False, repeats=False)

    def _escape(self) -> Node:
        after = self._pattern[self.at + 1 : self.at + 2]
        if not after:
            raise PatternError("it ends in a backslash")
        if after in "123456789k":
            raise PatternError(f"the back reference {self._pattern[self.at : self.at + 2]!r} is not supported")
        boundary = after in "bBAzZ"
        self.at += 2
        if after in "pP" and (name := re.compile(r"\{\w{1,64}\}").match(self._pattern, self.at)):
            self.at = name.end()
        return Node(0 if boundary else 1, boundary, repeats=False)

    def _take(self, character: str) -> bool:
        taken = self._pattern.startswith(character, self.at)
        self.at += taken
        return taken


def _counts(match: re.Match[str]) -> tuple[int, int]:
    simple = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}
    if match[0] in simple:
        return simple[match[0]]
    digits = [match[1], match[3] or ""]
    if any(len(text) > 9 for text in digits):
        raise PatternError(f"{match[0][:40]!r} repeats more than {MAX_REPEAT} times: use maxLength for long texts")
    minimum = int(match[1])
    if not match[2]:
        return minimum, minimum
    return minimum, int(match[3]) if match[3] else UNBOUNDED
