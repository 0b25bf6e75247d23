"""Activities available to template nodes, with their arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Activity:
    """Required and optional keys under `with`."""

    required: frozenset[str]
    optional: frozenset[str] = frozenset()


def _activity(required: Iterable[str], optional: Iterable[str] = ()) -> Activity:
    return Activity(frozenset(required), frozenset(optional))


ACTIVITIES = {
    "documents.index": _activity(["file", "collection"]),
    "serving.summarise": _activity(["file"], ["model", "max_characters", "max_tokens"]),
    "documents.digest": _activity(["title", "summaries"]),
}
"""Activities by name. Orchestration implements them; a test compares the two lists."""
