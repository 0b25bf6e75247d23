"""JSON parsing without duplicate keys, NaN, or unbounded nesting."""

from __future__ import annotations

import json
from typing import Any, NoReturn


class NotStrictJson(ValueError):
    """The text is not JSON, has a key twice, or is nested too deeply."""


def load(data: bytes) -> Any:
    """Return the value of a JSON document in UTF-8. The caller bounds its size.

    Raises:
        NotStrictJson: see the class.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError as error:
        raise NotStrictJson("it is nested too deeply") from error
    except NotStrictJson:
        raise
    except ValueError as error:  # includes invalid UTF-8 and integers of more than 4,300 digits
        raise NotStrictJson(f"it is not JSON: {str(error)[:100]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrictJson(f"it has the key {twice[:100]!r} twice")
    return value


def _constant(name: str) -> NoReturn:
    raise NotStrictJson(f"{name} is not JSON")
