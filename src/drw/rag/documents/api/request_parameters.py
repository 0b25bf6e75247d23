"""Reads what OpenAI's clients ask for: parts of lists, bodies, attributes; with a clear refusal of the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request

from drw.kernel.attributes import MAX_NUMBER
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import http_server
from drw.kernel.rpc.json_bodies import json_object
from drw.rag.documents.storage.files import Page

MAX_BODY_BYTES = 1 << 20
CHUNKING = "chunking_strategy"
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512


def page(request: Request, *, default: int, most: int) -> Page:
    """Return the part of a list that the query asks for, and one more to see whether there is more."""
    query = request.query_params
    try:
        limit = int(query.get("limit", default))
    except ValueError:
        limit = 0
    if not 1 <= limit <= most:
        raise InvalidRequest(f"limit is {query['limit']!r}; it can be 1 to {most}", param="limit")
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest(f"order is {order!r}; it can be asc or desc", param="order")
    if "before" in query:
        raise InvalidRequest("before is not supported; use after, with the other order", param="before")
    return Page(limit + 1, order == "desc", query.get("after", ""))


async def body(request: Request, known: Iterable[str]) -> dict[str, Any]:
    """Return the body of a request; empty where there is none.

    Raises:
        InvalidRequest: it is not a JSON object, or has a field that is not known.
    """
    raw = await http_server.read_body(request, MAX_BODY_BYTES)
    return fields(json_object(raw), known) if raw else {}


def fields(value: Mapping[str, Any], known: Iterable[str], place: str = "") -> dict[str, Any]:
    """Return the fields of an object that are given; `place` is where it stands, as in `files[0].`.

    Raises:
        InvalidRequest: it has a field that is not known.
    """
    known = set(known) | {CHUNKING}
    for name in value.keys() - known:
        said = f"'{place}{name}' is not a field; there are: {', '.join(sorted(known))}"
        raise InvalidRequest(said, param=f"{place}{name}")
    strategy = value.get(CHUNKING)
    if strategy is not None and (not isinstance(strategy, dict) or strategy.get("type") != "auto"):
        said = f"{place}{CHUNKING} can only be auto: files are cut at lines and headings"
        raise InvalidRequest(said, param=f"{place}{CHUNKING}")
    return {name: item for name, item in value.items() if item is not None and name != CHUNKING}


def text(value: Mapping[str, Any], name: str, default: str = "") -> str:
    """Return a field that is text."""
    found = value.get(name, default)
    if not isinstance(found, str):
        raise InvalidRequest(f"{name} must be text", param=name)
    return found


def texts(value: Mapping[str, Any], name: str, most: int) -> list[str]:
    """Return a field that is a list of texts."""
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found) or len(found) > most:
        raise InvalidRequest(f"{name} must be a list of at most {most} texts", param=name)
    return list(dict.fromkeys(found))


def pairs(value: Mapping[str, Any], name: str, kinds: tuple[type, ...] = (str, int, float, bool)) -> dict[str, Any]:
    """Return a field that is a set of keys with simple values."""
    found = value.get(name, {})
    if not isinstance(found, dict) or len(found) > MAX_PAIRS:
        raise InvalidRequest(f"{name} must be an object of at most {MAX_PAIRS} keys", param=name)
    for key, item in found.items():
        if not 1 <= len(key) <= MAX_KEY or not isinstance(item, kinds) or len(str(item)) > MAX_VALUE:
            said = f"{name} has {key[:MAX_KEY]!r}: a key has 1 to {MAX_KEY} characters, a value up to {MAX_VALUE}"
            raise InvalidRequest(said, param=name)
        if isinstance(item, int | float) and abs(item) > MAX_NUMBER:
            raise InvalidRequest(f"{name}.{key} is {item!r}; a number can be up to 2^53 either way", param=name)
        if "\0" in key + str(item):
            raise InvalidRequest(f"{name} has a NUL character", param=name)
    return found
