"""A desk that names what is another desk's, at every endpoint of docs/reference/openapi.json that takes an id.

It is told that there is no such thing, and nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from drw.kernel.rpc.context import SCOPES
from fuzzing.services import DOCUMENT, KEY, Served

SHARED = {
    "/api/v1/models/{id}": "models are the platform's",
    "/v1/models/{model}": "models are the platform's",
    "/api/v1/templates/{name}": "templates are the platform's",
    "/api/v1/audit/records/{index}/proof": "a proof shows a record to its own desk only: see below",
}
"""What is nobody's own, and why."""

ADMIN = ("platform:admin", "org:admin")
"""Scopes that reach beyond a desk, which a stranger here does not hold."""

ORG_WIDE = ("/api/v1/desks/", "/api/v1/kills/")
"""What every desk of an org may see or do that holds the scope."""

OTHERS = {
    "another org": {"x-drw-org": "other", "x-drw-key": "key_other"},
    "another desk": {"x-drw-desk": "equities", "x-drw-key": "key_equities"},
}
OUTSIDE = {"x-drw-walls": "credit", "x-drw-key": "key_outside"}
"""A key of the same desk outside of the wall that the owner stands inside of."""
WALLED = ("/v1/files", "/v1/vector_stores", "/api/v1/collections", "/api/v1/runs")
NOT_FOUND = (403, 404, 501)
SEEN = (
    *("/v1/files", "/v1/vector_stores", "/api/v1/collections", "/api/v1/runs", "/api/v1/keys?all=true"),
    *("/api/v1/kills", "/api/v1/desks/{name}"),
    *("/v1/vector_stores/{vector_store_id}/files", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}"),
)
"""What the owner looks at, to see that nothing has changed."""

BODIES: dict[str, Any] = {
    "/api/v1/kills/{id}:lift": {"reason": "mine"},
    "/v1/vector_stores/{vector_store_id}": {"name": "stolen"},
    "/v1/vector_stores/{vector_store_id}/files/{file_id}": {"attributes": {"stolen": True}},
    "/v1/vector_stores/{vector_store_id}/files": {"file_id": "{file_id}"},
    "/v1/vector_stores/{vector_store_id}/file_batches": {"file_ids": ["{file_id}"]},
    "/v1/vector_stores/{vector_store_id}/search": {"query": "rates"},
    "/api/v1/collections/{collection}:search": {"question": "rates"},
    "/api/v1/collections/{collection}:ask": {"question": "rates"},
}
NAMED_IN_BODIES = {
    "/v1/vector_stores": {"name": "mine", "file_ids": ["{file_id}"]},
    "/api/v1/runs": {"template": "digest", "inputs": {"files": ["{file_id}"]}},
}


def taking_ids() -> Iterator[tuple[str, str]]:
    for path, verbs in DOCUMENT["paths"].items():
        if "{" in path and path not in SHARED:
            yield from ((verb.upper(), path) for verb in verbs)


@pytest.fixture(params=OTHERS)
def stranger(served: Served, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client for somebody else, who holds every scope that a desk can."""
    scopes = {"x-drw-scopes": " ".join(scope for scope in SCOPES if scope not in ADMIN)}
    headers = KEY | scopes | OTHERS[request.param]
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as http:
        yield http


def filled(value: Any, served: Served) -> Any:
    """A body with the ids of what the owner has."""
    if isinstance(value, dict):
        return {name: filled(item, served) for name, item in value.items()}
    if isinstance(value, list):
        return [filled(item, served) for item in value]
    return served.known[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value


def seen(desk: httpx.Client, served: Served) -> list[Any]:
    answers = [desk.get(served.path(path)) for path in SEEN]
    assert [answer.status_code for answer in answers] == [200] * len(SEEN)
    return [answer.json() for answer in answers]


@pytest.mark.parametrize(("verb", "path"), list(taking_ids()), ids=[" ".join(one) for one in taking_ids()])
def test_objects_of_another_tenant_do_not_exist(
    served: Served, desk: httpx.Client, stranger: httpx.Client, verb: Any, path: Any
) -> None:
    operation = DOCUMENT["paths"][path][verb.lower()]
    admin = set(operation["security"][0]["key"]) <= set(ADMIN) or path.startswith("/api/v1/deadLetters")
    for name in (p["name"] for p in operation["parameters"] if p["in"] == "path"):
        assert admin or served.id_of(name, path), f"make one in fuzzing/services.py, or say in SHARED why not: {path}"
    if path.startswith(ORG_WIDE) and stranger.headers["x-drw-org"] == KEY["x-drw-org"] and not admin:
        return
    before = seen(desk, served)
    answer = stranger.request(verb, served.path(path), **_body(verb, path, served))
    assert answer.status_code in NOT_FOUND, answer.text
    assert seen(desk, served) == before


@pytest.mark.parametrize(
    ("verb", "path"),
    [one for one in taking_ids() if one[1].startswith(WALLED)],
    ids=[" ".join(one) for one in taking_ids() if one[1].startswith(WALLED)],
)
def test_objects_inside_a_wall_do_not_exist_outside(served: Served, desk: httpx.Client, verb: Any, path: Any) -> None:
    before = seen(desk, served)
    with httpx.Client(base_url=served.url, headers=KEY | OUTSIDE, timeout=30) as outside:
        answer = outside.request(verb, served.path(path), **_body(verb, path, served))
        assert answer.status_code == 404, answer.text
        ids = [served.known[name] for name in ("file_id", "vector_store_id", "run")]
        for listed in (*SEEN[:4], "/api/v1/audit/records?page_size=500"):
            assert not [id_ for id_ in ids if id_ in outside.get(listed).text], listed
    assert seen(desk, served) == before


@pytest.mark.parametrize("path", NAMED_IN_BODIES)
def test_a_body_cannot_name_objects_of_another_tenant(
    served: Served, desk: httpx.Client, stranger: httpx.Client, path: Any
) -> None:
    before = seen(desk, served)
    answer = stranger.post(path, json=filled(NAMED_IN_BODIES[path], served))
    if path == "/api/v1/runs" and answer.status_code == 200:  # a run finds out when it comes to the file
        run = answer.json()["id"]
        with stranger.stream("GET", f"/api/v1/runs/{run}:watch") as watched:
            assert "event: done" in list(watched.iter_lines())
        assert "there is no file" in stranger.get(f"/api/v1/runs/{run}").json()["error"]
    else:
        assert answer.status_code in NOT_FOUND, answer.text
    assert seen(desk, served) == before


def test_lists_and_the_audit_trail_show_ones_own(served: Served, desk: httpx.Client, stranger: httpx.Client) -> None:
    ids = {served.known[name] for name in ("file_id", "vector_store_id", "run")} | {served.known["/api/v1/keys/{id}"]}
    assert all(id_ in str(seen(desk, served)) for id_ in ids)
    for path in SEEN[:5]:
        if path.startswith("/api/v1/keys") and stranger.headers["x-drw-org"] == KEY["x-drw-org"]:
            continue  # keys are the org's: who may list them sees those of its desks
        text = stranger.get(path).text
        named = ids - {served.known["file_id"]} if path == "/api/v1/runs" else ids  # as an input that it gave itself
        assert not [id_ for id_ in named if id_ in text], path
    records = stranger.get("/api/v1/audit/records", params={"page_size": 100}).json()["records"]
    assert {record["actor"] for record in records} <= {stranger.headers["x-drw-key"]}
    first = desk.get("/api/v1/audit/records", params={"page_size": 100}).json()["records"][-1]
    assert stranger.get(f"/api/v1/audit/records/{first['index']}/proof").status_code in NOT_FOUND


def _body(verb: str, path: str, served: Served) -> dict[str, Any]:
    return {"json": filled(BODIES.get(path, {}), served)} if verb == "POST" else {}


def test_a_name_of_a_file_makes_no_header(desk: httpx.Client) -> None:
    for name in ("a\r\nset-cookie: x=1.txt", 'a"; filename="b.exe.txt', "a\nb.txt", "ü€.txt"):
        form: dict[str, Any] = {"file": (name, b"Rates rose."), "purpose": (None, "user_data")}
        made = desk.post("/v1/files", files=form)
        if made.status_code == 200:
            answer = desk.get(f"/v1/files/{made.json()['id']}/content")
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
            assert '"b.exe' not in answer.headers["content-disposition"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        else:
            assert made.status_code == 400
