"""Limits of regular expressions in JSON schemas, checked by parsing them."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BYTES = 1024
MAX_REPEAT = 1000
MAX_SIZE = 10_000
"""Maximum characters of a pattern with all repetitions expanded."""
MAX_ALTERNATIVES = 256
MAX_DEPTH = 32
UNBOUNDED = 1 << 30
QUANTIFIER = re.compile(r"[*+?]|\{(\d+)(?:(,)(\d*))?\}")
LOOK_AROUND = re.compile(r"\(\?<?[=!]")
GROUP = re.compile(r"\(\?(?::|P?<[A-Za-z_]\w*>)")


class PatternError(ValueError):
    """A pattern is malformed or exceeds a limit; the message says how to correct it."""


class Node(NamedTuple):
    """Properties of a part of a pattern."""

    size: int
    """Characters with repetitions expanded."""
    empty: bool
    """Whether it can match the empty string."""
    repeats: bool
    """Whether one unbounded repetition in it can be the whole match."""


def check_pattern(pattern: str, *, look_around: bool = False) -> None:
    """Reject a pattern that is too large, malformed or ambiguous in its repetitions, or that has a look-around.

    Raises:
        PatternError: the first fault.
    """
    if len(pattern.encode(errors="replace")) > MAX_BYTES:
        raise PatternError(f"it has {len(pattern)} characters; at most {MAX_BYTES} bytes")
    parser = _PatternParser(pattern, look_around)
    node = parser.alternatives(0)
    if parser.has_more:
        raise PatternError(f"')' at {parser.position} closes no group")
    if node.size > MAX_SIZE:
        raise PatternError(f"it repeats to {node.size} characters; at most {MAX_SIZE}: repeat less")


class _PatternParser:
    """Recursive-descent parser of patterns."""

    def __init__(self, pattern: str, look_around: bool) -> None:
        self._pattern = pattern
        self._look_around = look_around
        self.position = 0
        self._alternatives = 0

    @property
    def has_more(self) -> bool:
        return self.position < len(self._pattern)

    def alternatives(self, depth: int) -> Node:
        """Parse alternatives up to the end of the group."""
        if depth > MAX_DEPTH:
            raise PatternError(f"its groups are nested deeper than {MAX_DEPTH}")
        branches = [self._sequence(depth)]
        while self._accept("|"):
            branches.append(self._sequence(depth))
            self._alternatives += 1
            if self._alternatives >= MAX_ALTERNATIVES:
                raise PatternError(f"it has more than {MAX_ALTERNATIVES} alternatives; use an enum")
        size = sum(each.size for each in branches)
        return Node(size, any(each.empty for each in branches), any(each.repeats for each in branches))

    def _sequence(self, depth: int) -> Node:
        parts = []
        while self.has_more and self._pattern[self.position] not in "|)":
            parts.append(self._quantified(depth))
        consuming = [part for part in parts if not part.empty]
        repeats = any(part.repeats and all(p is part for p in consuming) for part in parts)
        return Node(sum(part.size for part in parts), not consuming, repeats)

    def _quantified(self, depth: int) -> Node:
        start = self.position
        atom = self._atom(depth)
        if (match := QUANTIFIER.match(self._pattern, self.position)) is None:
            return atom
        self.position = match.end()
        minimum, maximum = _repetition_bounds(match)
        text = self._pattern[start : self.position]
        if minimum > maximum:
            raise PatternError(f"{match[0]!r} has its bounds reversed: write {{{maximum},{minimum}}}")
        if max(minimum, 0 if maximum == UNBOUNDED else maximum) > MAX_REPEAT:
            raise PatternError(f"{match[0]!r} repeats more than {MAX_REPEAT} times: use maxLength for long texts")
        if maximum > 1 and (atom.empty or atom.repeats):
            raise PatternError(
                f"{text[:40]!r} repeats what can match in more than one way: "
                "separate the repetitions, as in (\\w+ )*\\w+ in place of (\\w+ ?)*"
            )
        if not (self._accept("?") or self._accept("+")) and QUANTIFIER.match(self._pattern, self.position):
            raise PatternError(f"nothing to repeat at {self.position}")
        size = atom.size * max(1, minimum, 1 if maximum == UNBOUNDED else maximum)
        if size > MAX_SIZE:
            raise PatternError(f"{text[:40]!r} repeats to {size} characters; at most {MAX_SIZE}: repeat less")
        return Node(size, atom.empty or minimum == 0, maximum == UNBOUNDED or atom.repeats)

    def _atom(self, depth: int) -> Node:
        if QUANTIFIER.match(self._pattern, self.position):
            raise PatternError(f"nothing to repeat at {self.position}")
        if self._pattern[self.position] == "(":
            return self._group(depth)
        if self._pattern[self.position] == "[":
            return self._class()
        if self._pattern[self.position] == "\\":
            return self._escape()
        is_anchor = self._pattern[self.position] in "^$"
        self.position += 1
        return Node(0 if is_anchor else 1, is_anchor, repeats=False)

    def _group(self, depth: int) -> Node:
        look_around_group = LOOK_AROUND.match(self._pattern, self.position) if self._look_around else None
        opening = look_around_group or GROUP.match(self._pattern, self.position)
        if opening is None and self._pattern.startswith("(?", self.position):
            raise PatternError(
                f"{self._pattern[self.position : self.position + 4]!r} is not supported: no look-around, no flags"
            )
        self.position = opening.end() if opening else self.position + 1
        node = self.alternatives(depth + 1)
        if not self._accept(")"):
            raise PatternError("a group is not closed")
        return Node(node.size, empty=True, repeats=False) if look_around_group else node

    def _class(self) -> Node:
        self.position += 1
        self._accept("^")
        self._accept("]")
        while self.has_more and self._pattern[self.position] != "]":
            self.position += 2 if self._pattern[self.position] == "\\" else 1
        if not self._accept("]"):
            raise PatternError("a character class is not closed")
        return Node(1, empty=False, repeats=False)

    def _escape(self) -> Node:
        escaped = self._pattern[self.position + 1 : self.position + 2]
        if not escaped:
            raise PatternError("it ends in a backslash")
        if escaped in "123456789k":
            raise PatternError(
                f"the back reference {self._pattern[self.position : self.position + 2]!r} is not supported"
            )
        is_boundary = escaped in "bBAzZ"
        self.position += 2
        if escaped in "pP" and (name := re.compile(r"\{\w{1,64}\}").match(self._pattern, self.position)):
            self.position = name.end()
        return Node(0 if is_boundary else 1, is_boundary, repeats=False)

    def _accept(self, character: str) -> bool:
        accepted = self._pattern.startswith(character, self.position)
        self.position += accepted
        return accepted


def _repetition_bounds(match: re.Match[str]) -> tuple[int, int]:
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
