"""Values of secrets in memory, and their redaction in outputs and errors: a called system can send them back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

from drw.kernel.errors import DrwError

MIN_FRAGMENT = 8
"""Characters of an encoded form that identify a secret."""


class Secrets:
    """The values of the secrets of one attempt, by name. Its representation has no value."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        forms = [(form, name) for name, value in self._values.items() for form in set(_forms(value))]
        self._forms = sorted(forms, key=lambda form: -len(form[0]))  # a long form can contain a short one

    def __repr__(self) -> str:
        return f"Secrets({sorted(self._values)})"

    def __bool__(self) -> bool:
        return bool(self._values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def redacted(self, value: Any) -> Any:
        """Return a JSON value without the secrets: as such, and in the encodings in which systems repeat them."""
        if not self._forms:
            return value
        if isinstance(value, str):
            for form, name in self._forms:
                if form in value:
                    value = value.replace(form, f"[secret {name}]")
            return value
        if isinstance(value, dict):
            return {self.redacted(key): self.redacted(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.redacted(item) for item in value]
        return self.redacted(str(value)) if _is_number(value) and self._has(str(value)) else value

    def redacted_error(self, error: DrwError) -> DrwError:
        """Return the error without the secrets, and without the exceptions that caused it."""
        error.message = self.redacted(error.message)
        error.args = (error.message,)
        error.metadata = {key: self.redacted(value) for key, value in error.metadata.items()}
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)

    def _has(self, text: str) -> bool:
        return any(form in text for form, _ in self._forms)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _forms(value: str) -> Iterator[str]:
    """Yield a value as it is, and as JSON, URLs, HTML, hex and Base64 have it."""
    yield value
    for ensure_ascii in (True, False):
        yield json.dumps(value, ensure_ascii=ensure_ascii)[1:-1]
    yield from (quote(value), quote(value, safe=""), quote_plus(value), escape(value))
    content = value.encode()
    yield from (content.hex(), content.hex().upper())
    for skipped in range(3):  # where the value begins within a group of three bytes
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(skipped) + content).decode()
            # Without the characters that also depend on the bytes before and after the value.
            start, end = (0, 2, 3)[skipped], len(text) if (skipped + len(content)) % 3 == 0 else text.index("=") - 1
            if end - start >= MIN_FRAGMENT:
                yield text[start:end]
