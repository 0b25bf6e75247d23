"""Adapter for the local moderation policy: words and regular expressions, matched by RE2 in linear time.

Scores are 0 or 1. It finds what the rules name, and understands nothing: it is no classifier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import re2

from drw.kernel.errors import ConfigError
from drw.models.serving.errors import NotSupported
from drw.models.serving.ports import EngineTarget, Moderator
from drw.models.serving.settings import ModerationSettings, PolicySettings

CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)
"""OpenAI's categories, which each result has."""
MAX_MEMORY = 64 << 20
BEFORE, AFTER = r"(?:^|[^\pL\pN_])", r"(?:$|[^\pL\pN_])"


class Re2Policy(Moderator):
    """Matches the rules of each category."""

    Settings = ModerationSettings

    def __init__(self, settings: ModerationSettings) -> None:
        self._rules = {name: _compiled(name, rules) for name, rules in settings.categories.items()}

    async def moderate(self, target: EngineTarget, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the categories whose rules match, for each input."""
        return [await asyncio.to_thread(self._result, _text(one)) for one in inputs]

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    def _result(self, text: str) -> dict[str, Any]:
        found = {name: any(rule.search(text) is not None for rule in rules) for name, rules in self._rules.items()}
        categories = dict.fromkeys(CATEGORIES, False) | found
        return {
            "flagged": any(found.values()),
            "categories": categories,
            "category_scores": {name: float(match) for name, match in categories.items()},
            "category_applied_input_types": {name: ["text"] if name in found else [] for name in categories},
        }


def _text(item: Any) -> str:
    """Return the text of an input: a text, or the text parts of OpenAI's content parts."""
    if isinstance(item, str):
        return item
    if any(part["type"] != "text" for part in item):
        raise NotSupported("input", "the model 'policy' reads texts only")
    return "\n".join(part["text"] for part in item)


def _compiled(category: str, rules: PolicySettings) -> list[Any]:
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    words = "|".join(re2.escape(word) for word in rules.words if word)
    patterns = [f"(?i){BEFORE}(?:{words}){AFTER}"] if words else []
    compiled = []
    for pattern in [*patterns, *rules.patterns]:
        try:
            compiled.append(re2.compile(pattern, options))
        except re2.error as error:
            raise ConfigError(_problem(category, pattern, rules, error)) from error
    return compiled


def _problem(category: str, pattern: str, rules: PolicySettings, error: Exception) -> str:
    name = f"serving.moderation.categories.{category}"
    if pattern not in rules.patterns:
        return f"{name}.words is too long: {error}"
    return f"{name}.patterns has {pattern[:80]!r}, which RE2 does not support: {error}"
