"""Logprobs of a llama.cpp server, made whole: it leaves out tokens that are only a part of a character.

What it left out is found after the answer: the server is asked what may follow the tokens before it, and the bytes of
the character tell which of these it was. Until then, events go out without logprobs; the last one has the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Entry = dict[str, Any]
Probe = Callable[[list[int], int], Awaitable[list[Entry]]]
"""Returns so many of the likeliest tokens after those that were generated before, the likeliest first."""

CANDIDATES = 20
"""Of each token: among them is as a rule the one that was generated, with its own bytes."""
PROBED = (200, 20_000)
"""Candidates for a token that is missing; a schema may have forced one that was not likely at all."""
MAX_PROBES = 512
UNKNOWN: Entry = {"token": "\ufffd", "bytes": None, "logprob": -9999.0, "top_logprobs": []}
"""Of a token that cannot be found; the number is OpenAI's for what is not among the likeliest."""


class Logprobs:
    """The entries of one choice."""

    def __init__(self, *, greedy: bool) -> None:
        self._greedy = greedy
        """Whether the likeliest token was generated each time."""
        self._entries: list[Entry | None] = []
        self._characters: dict[int, bytes] = {}
        """What ends at an entry before which some are missing: their bytes and its own."""
        self._sent = 0
        self._probes = 0
        self.missing = False
        """Whether there are entries that no event has had."""

    def take(self, choice: Entry, tokens: int) -> None:
        """Take note of an event by which so many tokens have come; leave in it what may go out."""
        content = (choice.get("logprobs") or {}).get("content") or []
        left_out = tokens - len(self._entries) - len(content)
        self.missing = self.missing or left_out > 0
        self._entries += [None] * left_out
        for entry in content:
            if self._entries and self._entries[-1] is None:
                self._characters[len(self._entries)] = bytes(entry["bytes"])
            if (own := _own(entry)) is not None:
                entry |= _described(own)
            self._entries.append(entry)
        if self.missing:
            choice["logprobs"] = None
        else:
            self._sent = len(self._entries)

    async def rest(self, probe: Probe) -> list[Entry]:
        """Return the entries that no event has had."""
        ids: list[int] = []
        for index, entry in enumerate(self._entries):
            if entry is None:
                entry = await self._found(index, ids, probe) if len(ids) == index else None
                self._entries[index] = entry = dict(UNKNOWN) if entry is None else entry
            elif index in self._characters and _own(entry) is None:
                entry |= _described({"bytes": list(self._characters[index])})
            if "id" in entry:
                ids.append(entry["id"])
        return [entry for entry in self._entries[self._sent :] if entry is not None]

    async def _found(self, index: int, ids: list[int], probe: Probe) -> Entry | None:
        """Return the entry of a token, which is the beginning of what is left of its character."""
        end = next((at for at in sorted(self._characters) if at > index), len(self._entries))
        left = self._characters.get(end, b"")
        own = bytes((_own(self._entries[end] or {}) or {}).get("bytes", b"")) if left else b""
        if not left and not self._greedy:  # cut before its character was whole
            return None
        for number in PROBED:
            self._probes += 1
            if self._probes > MAX_PROBES:
                break
            likely = await probe(ids, number)
            match = _first(likely, left, end - index, own) if left else next(iter(likely), None)
            if match:
                self._characters[end] = left[len(match["bytes"]) :]
                return match | _described(match) | {"top_logprobs": likely[:CANDIDATES]}
        return None


def _first(likely: list[Entry], left: bytes, tokens: int, last: bytes) -> Entry | None:
    """Return the likeliest token with which these bytes begin, and after which so many more make up their rest."""
    for match in likely:
        text = bytes(match["bytes"])
        rest = left[len(text) :]
        if text and left.startswith(text) and len(rest) >= tokens and (tokens > 1 or not last or rest == last):
            return match
    return None


def _own(entry: Entry) -> Entry | None:
    """Return what a token is by itself; None where that is not among the likeliest."""
    return next((likely for likely in entry.get("top_logprobs", ()) if likely["id"] == entry["id"]), None)


def _described(token: Entry) -> Entry:
    return {"token": bytes(token["bytes"]).decode(errors="replace"), "bytes": token["bytes"]}
