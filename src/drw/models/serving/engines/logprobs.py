"""Completes the logprobs of a llama.cpp server, which omits tokens that are only a part of a UTF-8 character.

Missing tokens are determined after the answer: the server returns the most likely tokens at that position, and the
bytes of the character select one. From the first missing token on, events have no logprobs; the last one has the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Entry = dict[str, Any]
Probe = Callable[[list[int], int], Awaitable[list[Entry]]]
"""Returns a number of the most likely tokens after the given tokens, the most likely first."""

MAX_CANDIDATES = 20
"""Candidates requested for each token. They usually include the generated token with its bytes."""
PROBE_SIZES = (200, 20_000)
"""Candidates requested for a missing token, in two attempts: a schema can force an unlikely token."""
MAX_PROBES = 512
UNKNOWN: Entry = {"token": "\ufffd", "bytes": None, "logprob": -9999.0, "top_logprobs": []}
"""The entry of a token that cannot be determined, with OpenAI's logprob for unlikely tokens."""


class Logprobs:
    """The logprob entries of one choice."""

    def __init__(self, *, greedy: bool) -> None:
        self._greedy = greedy
        """Whether the most likely token is always generated."""
        self._entries: list[Entry | None] = []
        self._partial_characters: dict[int, bytes] = {}
        """By entry index: the bytes of the missing tokens before the entry, and of the entry."""
        self._sent = 0
        self._probes = 0
        self.missing = False
        """Whether entries were withheld from events."""

    def add(self, choice: Entry, tokens: int) -> None:
        """Add an event after which there are so many tokens; remove its logprobs if earlier ones are missing."""
        content = (choice.get("logprobs") or {}).get("content") or []
        missing_tokens = tokens - len(self._entries) - len(content)
        self.missing = self.missing or missing_tokens > 0
        self._entries += [None] * missing_tokens
        for entry in content:
            if self._entries and self._entries[-1] is None:
                self._partial_characters[len(self._entries)] = bytes(entry["bytes"])
            if (candidate := _own_candidate(entry)) is not None:
                entry |= _text_fields(candidate)
            self._entries.append(entry)
        if self.missing:
            choice["logprobs"] = None
        else:
            self._sent = len(self._entries)

    async def remaining_entries(self, probe: Probe) -> list[Entry]:
        """Return the entries that were withheld from events."""
        token_ids: list[int] = []
        for index, entry in enumerate(self._entries):
            if entry is None:
                entry = await self._find_entry(index, token_ids, probe) if len(token_ids) == index else None
                self._entries[index] = entry = dict(UNKNOWN) if entry is None else entry
            elif index in self._partial_characters and _own_candidate(entry) is None:
                entry |= _text_fields({"bytes": list(self._partial_characters[index])})
            if "id" in entry:
                token_ids.append(entry["id"])
        return [entry for entry in self._entries[self._sent :] if entry is not None]

    async def _find_entry(self, index: int, token_ids: list[int], probe: Probe) -> Entry | None:
        """Return the entry of a missing token: the most likely token that starts the remaining bytes."""
        next_index = next((at for at in sorted(self._partial_characters) if at > index), len(self._entries))
        remaining = self._partial_characters.get(next_index, b"")
        last_bytes = b""
        if remaining and (last := _own_candidate(self._entries[next_index] or {})):
            last_bytes = bytes(last["bytes"])
        if not remaining and not self._greedy:  # the answer ends inside a character
            return None
        for number in PROBE_SIZES:
            self._probes += 1
            if self._probes > MAX_PROBES:
                break
            candidates = await probe(token_ids, number)
            if remaining:
                match = _match(candidates, remaining, next_index - index, last_bytes)
            else:
                match = next(iter(candidates), None)
            if match:
                self._partial_characters[next_index] = remaining[len(match["bytes"]) :]
                return match | _text_fields(match) | {"top_logprobs": candidates[:MAX_CANDIDATES]}
        return None


def _match(candidates: list[Entry], remaining: bytes, tokens: int, last_bytes: bytes) -> Entry | None:
    """Return the most likely token that starts the remaining bytes and leaves at least one byte per further token."""
    for match in candidates:
        text = bytes(match["bytes"])
        rest = remaining[len(text) :]
        if not text or not remaining.startswith(text) or len(rest) < tokens:
            continue
        if tokens > 1 or not last_bytes or rest == last_bytes:
            return match
    return None


def _own_candidate(entry: Entry) -> Entry | None:
    """Return the candidate that is the token itself, with its own bytes; None if it is not among the candidates."""
    return next((candidate for candidate in entry.get("top_logprobs", ()) if candidate["id"] == entry["id"]), None)


def _text_fields(token: Entry) -> Entry:
    return {"token": bytes(token["bytes"]).decode(errors="replace"), "bytes": token["bytes"]}
