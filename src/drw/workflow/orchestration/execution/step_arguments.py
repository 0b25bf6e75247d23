"""Arguments of a step: rendered, except for texts with secrets, which are completed in the call of the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Node
from drw.expressions.cel import render
from drw.expressions.placeholders import placeholders, secret_name, texts_in
from drw.kernel.errors import InvalidRequest
from drw.workflow.orchestration.secrets.redaction import Secrets

MAX_KEY_CHARACTERS = 200

Path = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class SecretText:
    """A text with secrets, and its place in the arguments."""

    path: Path
    parts: tuple[str, ...]
    """Alternately a text and the name of a secret, as in `("Bearer ", "TOKEN", "")`."""


@dataclass(frozen=True, slots=True)
class StepArguments:
    """The arguments of a step. They contain names of secrets and no values, so that the journal can store them."""

    values: dict[str, Any]
    """Empty texts stand in the places of `secret_texts`."""
    secret_texts: tuple[SecretText, ...] = ()
    key: str = ""
    """The author's idempotency key; empty: none."""

    @property
    def secret_names(self) -> frozenset[str]:
        """The names of all secrets in the arguments."""
        return frozenset(name for text in self.secret_texts for name in text.parts[1::2])

    @classmethod
    def rendered(cls, node: Node, scope: Mapping[str, Any]) -> StepArguments:
        """Return the arguments of a node with the values of its expressions.

        Raises:
            InvalidRequest: an expression has no value, or the idempotency key is not a short text.
        """
        source = orjson.loads(node.with_json or "{}")
        found = [(path, text) for path, text in texts_in(source) if _has_secret(text)]
        for path, _ in found:
            _put(source, path, "")
        texts = tuple(SecretText(path, tuple(_parts(text, scope))) for path, text in found)
        key = _key(_text(render(node.idempotency_key, scope))) if node.idempotency_key else ""
        return cls(render(source, scope), texts, key)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> StepArguments:
        """Return the arguments of `to_json`."""
        texts = tuple(SecretText(tuple(path), tuple(parts)) for path, parts in stored["secret_texts"])
        return cls(stored["values"], texts, stored["key"])

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON, without values of secrets."""
        texts = [[list(text.path), list(text.parts)] for text in self.secret_texts]
        return {"values": self.values, "secret_texts": texts, "key": self.key}

    def resolved(self, secrets: Secrets) -> dict[str, Any]:
        """Return the arguments with the values of their secrets."""
        if not self.secret_texts:
            return self.values
        values: dict[str, Any] = orjson.loads(orjson.dumps(self.values))
        for text in self.secret_texts:
            parts = [secrets[part] if index % 2 else part for index, part in enumerate(text.parts)]
            _put(values, text.path, "".join(parts))
        return values


def _has_secret(text: str) -> bool:
    return any(secret_name(placeholder.expression) for placeholder in placeholders(text))


def _parts(text: str, scope: Mapping[str, Any]) -> list[str]:
    parts, position = [""], 0
    for placeholder in placeholders(text):
        parts[-1] += text[position : placeholder.start]
        if name := secret_name(placeholder.expression):
            parts += [name, ""]
        else:
            parts[-1] += _text(render(text[placeholder.start : placeholder.end], scope))
        position = placeholder.end
    parts[-1] += text[position:]
    return parts


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _put(values: Any, path: Path, text: str) -> None:
    for part in path[:-1]:
        values = values[part]
    values[path[-1]] = text


def _key(key: str) -> str:
    if not (0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()) or key != key.strip():
        raise InvalidRequest(
            f"the idempotency key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters, without blanks at"
            " its ends"
        )
    return key
