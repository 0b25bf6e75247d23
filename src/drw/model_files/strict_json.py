"""JSON parsing without duplicate keys, NaN, unpaired surrogates or unbounded nesting."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may be half of a character."""


class NotStrictJson(ValueError):
    """The text is not JSON, has a key twice, is nested too deeply, or is not valid Unicode."""


def load(data: bytes) -> Any:
    """Return the value of a JSON document in UTF-8. The caller bounds its size.

    Raises:
        NotStrictJson: see the class.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        if SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError as error:
        raise NotStrictJson("it is nested too deeply") from error
    except NotStrictJson:
        raise
    except UnicodeError as error:
        raise NotStrictJson("it is not valid Unicode") from error
    except ValueError as error:  # includes integers of more than 4,300 digits
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
