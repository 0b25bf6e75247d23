"""The activities that a node of a template may use, and the arguments that each takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Activity:
    """What a node must and may say under `with`."""

    required: frozenset[str]
    optional: frozenset[str] = frozenset()


def _activity(required: Iterable[str], optional: Iterable[str] = ()) -> Activity:
    return Activity(frozenset(required), frozenset(optional))


ACTIVITIES = {
    "documents.index": _activity(["file", "collection"]),
    "serving.summarise": _activity(["file"], ["model", "max_characters", "max_tokens"]),
    "documents.digest": _activity(["title", "summaries"]),
}
"""By name. Orchestration performs them; a test holds the two lists together."""
