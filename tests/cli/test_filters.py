"""Filters and attributes as they are typed."""

from __future__ import annotations

from typing import Any

import pytest

from drw.cli.rag import filters
from drw.kernel.errors import InvalidRequest


def compare(type_, key, value):
    return {"type": type_, "key": key, "value": value}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["year=2023"], compare("eq", "year", 2023)),
        (["year >= 2023"], compare("gte", "year", 2023)),
        (["share<-0.5"], compare("lt", "share", -0.5)),
        (["desk!=rates desk"], compare("ne", "desk", "rates desk")),
        (["ok=true"], compare("eq", "ok", True)),
        (['year="2023"'], compare("eq", "year", "2023")),
        (["note=a=b>c"], compare("eq", "note", "a=b>c")),
        (["note="], compare("eq", "note", "")),
        (["note=null"], compare("eq", "note", "null")),
        (["note=NaN"], compare("eq", "note", "NaN")),
        (["note=-Infinity"], compare("eq", "note", "-Infinity")),
        (["a>1", "b<=2"], {"type": "and", "filters": [compare("gt", "a", 1), compare("lte", "b", 2)]}),
        (['{"type": "in", "key": "a", "value": [1]}'], compare("in", "a", [1])),
        ([], {}),
        (None, {}),
    ],
)
def test_a_filter_is_read(typed: Any, read: Any) -> None:
    found = filters.parse_filters(typed)
    assert found == read
    assert type(found.get("value")) is type(read.get("value"))


@pytest.mark.parametrize("typed", ["year", "=3", "{", ""])
def test_what_is_none_is_refused(typed: str) -> None:
    with pytest.raises(InvalidRequest, match="filter"):
        filters.parse_filters([typed])


def test_attributes_are_read() -> None:
    assert filters.parse_attributes(["year=2025", "ok=false", "a=b=c"]) == {"year": 2025, "ok": False, "a": "b=c"}
    for typed in ("year", "=1"):
        with pytest.raises(InvalidRequest, match="is not KEY=VALUE"):
            filters.parse_attributes([typed])
