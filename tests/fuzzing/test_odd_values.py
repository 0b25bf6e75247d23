"""Values that have broken services before, in every place of every endpoint of docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from fuzzing.services import DOCUMENT, KEY, SECONDS, Served, check
from support.json_types import Json, JsonObject

IN_PATH = ("%00", "%ff", "%ed%a0%80", "..", "%2e%2e", "%2f", "a" * 3000, "%0d%0a", "'", "%F0%9F%98%80", "%E2%80%AE")
IN_QUERY = (*IN_PATH, "", "-1", "9223372036854775808", "9" * 30, "1e400", "NaN", "null")
BODIES = (
    *(b"", b"null", b"[]", b"1", b'"x"', b"{", b"\x00", b"\xff\xfe", b"[" * 100_000, b'{"a":1e999}'),
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"model":"double","messages":[{"role":"user","content":"\\ud800"}]}',
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="\\"\r\n\r\nx\r\n--x--\r\n',
)
TYPES = ("application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain")
IN_FIELDS: tuple[Json, ...] = (
    *("\0", "\ufffe", "", "x" * 70_000, "2026-01-01T00:00:00Z", "99999s"),
    *(None, True, -1, 2**31, 2**63, 2**64, 10**30, 1.5, 1e308, -1e308),
    *([], {}, ["\0"], {"\0": "\0"}, [[]], [None], [{}], {"a": 10**30}, {"a": {"b": [1]}}),
    *({"files": ["\0"]}, {"files": "x"}, {"files": [1]}, {"files": [["x"]]}),
    {"type": "eq", "key": "\0", "value": "\0"},
    {"type": "eq", "key": "a", "value": 1e308},
    {"type": "and", "filters": [{"type": "and", "filters": []}]},
)
RIGHT = {
    "model": "double",
    "messages": [{"role": "user", "content": "x"}],
    "template": "digest",
    **dict.fromkeys(("prompt", "input", "query", "name", "question", "text"), "x"),
}
"""What stands in the fields beside the odd one."""

ENDPOINTS = [(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs]


@pytest.mark.parametrize(("verb", "path"), ENDPOINTS, ids=[" ".join(endpoint) for endpoint in ENDPOINTS])
def test_odd_values_are_never_a_server_error(served: Served, verb: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][verb.lower()]
    with httpx.Client(base_url=served.url, headers=KEY, timeout=SECONDS) as http:
        for url, more in (*_urls(path, operation, served), *_bodies(path, operation, served)):
            answer = http.request(verb, url, **more)
            check(path, answer.status_code, answer.content, f"{verb} {url[:200]} {str(more)[:200]}")


def _urls(path: str, operation: JsonObject, served: Served) -> Iterator[tuple[str, JsonObject]]:
    body: JsonObject = {"json": {}} if "requestBody" in operation else {}
    for parameter in operation.get("parameters", []):
        name = parameter["name"]
        if parameter["in"] == "path":
            yield from ((served.path(path, **{name: odd}), body) for odd in IN_PATH)
        elif parameter["in"] == "query":
            yield from ((f"{served.path(path)}?{name}={odd}", body) for odd in IN_QUERY)
        else:
            yield from ((served.path(path), {**body, "headers": {name: odd[:100]}}) for odd in IN_QUERY)


def _bodies(path: str, operation: JsonObject, served: Served) -> Iterator[tuple[str, JsonObject]]:
    if "requestBody" not in operation:
        return
    url = served.path(path)
    for body in BODIES:
        yield from ((url, {"content": body, "headers": {"content-type": kind}}) for kind in TYPES)
    fields = _fields(operation["requestBody"]["content"])
    right = {name: value for name, value in (RIGHT | served.known).items() if name in fields}
    for name in fields:
        yield from ((url, {"json": {**right, name: odd}}) for odd in IN_FIELDS)


def _fields(content: JsonObject) -> JsonObject:
    schema = next(iter(content.values()))["schema"]
    if reference := schema.get("$ref"):
        schema = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]
    return schema["properties"]
