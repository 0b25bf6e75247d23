"""Parsing of filters and attributes from the command line."""

from __future__ import annotations

import pytest

from drw.cli.rag import filters
from drw.kernel.errors import InvalidRequest
from support.json_types import Json, JsonObject


def compare(type_: str, key: str, value: Json) -> JsonObject:
    return {"type": type_, "key": key, "value": value}


@pytest.mark.parametrize(
    ("arguments", "expected"),
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
def test_filters_are_parsed(arguments: list[str] | None, expected: JsonObject) -> None:
    parsed = filters.parse_filters(arguments)
    assert parsed == expected
    assert type(parsed.get("value")) is type(expected.get("value"))


@pytest.mark.parametrize("arguments", ["year", "=3", "{", ""])
def test_invalid_filters_are_rejected(arguments: str) -> None:
    with pytest.raises(InvalidRequest, match="filter"):
        filters.parse_filters([arguments])


def test_attributes_are_parsed() -> None:
    assert filters.parse_attributes(["year=2025", "ok=false", "a=b=c"]) == {"year": 2025, "ok": False, "a": "b=c"}
    for arguments in ("year", "=1"):
        with pytest.raises(InvalidRequest, match="is not KEY=VALUE"):
            filters.parse_attributes([arguments])
