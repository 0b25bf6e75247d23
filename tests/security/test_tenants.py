"""A desk that references objects of another desk, at every endpoint of docs/reference/openapi.json with an id.

The response is "not found", and nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from drw.kernel.rpc.context import SCOPES
from fuzzing.services import DOCUMENT, KEY, MODEL, Served
from support.json_types import Json, JsonObject

SHARED = {
    "/api/v1/models/{id}": "models are the platform's",
    "/v1/models/{model}": "models are the platform's",
    "/api/v1/templates/{name}": "strangers use templates of their own desks: templates/test_desk_templates.py",
    "/api/v1/audit/records/{index}/proof": "a proof shows a record to its own desk only: see below",
}
"""Endpoints of objects without an owner, and why."""

ADMIN = ("platform:admin", "org:admin")
"""Scopes beyond a desk, which the strangers do not hold."""

ORG_WIDE = (
    *("/api/v1/desks/", "/api/v1/kills/", "/api/v1/model-versions/", "/api/v1/promotions/"),
    *("/api/v1/aliases/{name}/history", "/api/v1/aliases/{name}:rollback"),
)
"""Endpoints that every desk of an org with the scope may use."""

STRANGERS = {
    "another org": {"x-drw-org": "other", "x-drw-key": "key_other"},
    "another desk": {"x-drw-desk": "equities", "x-drw-key": "key_equities"},
}
OUTSIDE_WALL = {"x-drw-walls": "credit", "x-drw-key": "key_outside"}
"""A key of the same desk that is outside the wall of the owner."""
WALLED = (
    *(
        "/v1/files",
        "/v1/vector_stores",
        "/v1/batches",
        "/v1/responses",
        "/api/v1/collections",
        "/api/v1/runs",
        "/api/v1/deadLetters/",
        "/api/v1/redrives/",
        "/api/v1/schedules",
        "/api/v1/triggers",
        "/api/v1/delegations/",
        "/api/v1/holds/",
        "/api/v1/approvalLinks/",
        "/api/v1/experiments",
        "/api/v1/templates",
    ),
    *("/api/v1/model-versions/", "/api/v1/promotions/", "/api/v1/aliases/{name}/history"),
)
NOT_FOUND = (403, 404)
VISIBLE_PATHS = (
    *("/v1/files", "/v1/vector_stores", "/api/v1/collections", "/api/v1/runs", "/api/v1/keys?all=true"),
    *("/api/v1/kills", "/api/v1/desks/{name}", "/api/v1/experiments", "/api/v1/experiments/{name}/results"),
    *("/api/v1/deadLetters/{dead_letter}", "/api/v1/redrives/{redrive}"),
    *("/v1/vector_stores/{vector_store_id}/files", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}"),
    *(
        "/v1/responses/{response_id}",
        "/v1/batches",
        "/api/v1/schedules",
        "/api/v1/schedules/{schedule}",
        "/api/v1/triggers",
        "/api/v1/triggers/{trigger}",
        "/api/v1/approvals",
        "/api/v1/delegations",
        "/api/v1/holds",
        "/api/v1/model-versions",
        "/api/v1/promotions",
        "/api/v1/aliases/{name}/history",
    ),
)
"""The paths that show whether the owner's objects changed."""

REASON = {"reason": "mine"}
EXPIRES_AT = (datetime.now(UTC) + timedelta(days=30)).isoformat()
BODIES: JsonObject = {
    "/api/v1/runs/{run}/approvals/{step}": {"decision": "APPROVE"},
    "/api/v1/approvalLinks/{token}": {"decision": "APPROVE"},
    "/api/v1/holds/{hold}:release": REASON,
    "/api/v1/runs/{run}/signals/{signal}": {"signal_id": "mine"},
    "/api/v1/aliases/{name}:rollback": REASON,
    "/api/v1/model-versions/{id}:revoke": REASON,
    "/api/v1/model-versions/{id}:retire": REASON,
    "/api/v1/model-versions/{id}:deleteFiles": REASON,
    "/api/v1/promotions/{id}:reject": REASON,
    "/api/v1/model-versions/{id}/evaluations": {"evaluation": {"suite": "mine", "metrics": {"auc": 1}}},
    "/api/v1/model-versions/{id}/validation": {
        "record": {"scope": "NOT_IN_SCOPE", "scope_reason": "mine", "owner": "mine", "expires_at": EXPIRES_AT}
    },
    "/api/v1/experiments/{name}:stop": {"reason": "mine"},
    "/api/v1/experiments/{name}:assign": {"unit": "user-1"},
    "/api/v1/experiments/{name}/exposures": {"units": ["user-1"]},
    "/api/v1/experiments/{name}/outcomes": {"outcomes": [{"unit": "user-1", "metric": "cost", "value": 1}]},
    "/api/v1/kills/{id}:lift": {"reason": "mine"},
    "/api/v1/schedules/{schedule}:backfill": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
    "/v1/vector_stores/{vector_store_id}": {"name": "stolen"},
    "/v1/vector_stores/{vector_store_id}/files/{file_id}": {"attributes": {"stolen": True}},
    "/v1/vector_stores/{vector_store_id}/files": {"file_id": "{file_id}"},
    "/v1/vector_stores/{vector_store_id}/file_batches": {"file_ids": ["{file_id}"]},
    "/v1/vector_stores/{vector_store_id}/search": {"query": "rates"},
    "/api/v1/collections/{collection}:search": {"question": "rates"},
    "/api/v1/collections/{collection}:ask": {"question": "rates"},
}
NAMED_IN_BODIES = {
    "/v1/responses": {"model": MODEL, "input": "rates", "previous_response_id": "{response_id}"},
    "/v1/vector_stores": {"name": "mine", "file_ids": ["{file_id}"]},
    "/api/v1/runs": {"template": "digest", "inputs": {"files": ["{file_id}"]}},
    "/api/v1/delegations": {"delegate": "key_other", "run": "{waiting_run}", "step": "sign"},
    "/api/v1/approvalLinks": {"run": "{waiting_run}", "step": "sign"},
    "/api/v1/holds": {"kind": "RUN", "name": "{run}", "reason": "mine"},
    "/v1/batches": {
        "input_file_id": "{batch_file}",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    },
}


def endpoints_with_ids() -> Iterator[tuple[str, str]]:
    for path, verbs in DOCUMENT["paths"].items():
        if "{" in path and path not in SHARED:
            yield from ((verb.upper(), path) for verb in verbs)


@pytest.fixture(params=STRANGERS)
def stranger(served: Served, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of another tenant with every scope that a desk can hold."""
    scopes = {"x-drw-scopes": " ".join(scope for scope in SCOPES if scope not in ADMIN)}
    headers = KEY | scopes | STRANGERS[request.param]
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as http:
        yield http


def fill(value: Json, served: Served) -> Json:
    """Return a body with the ids of the owner's objects."""
    if isinstance(value, dict):
        return {name: fill(item, served) for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, served) for item in value]
    return served.known[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value


def visible_state(desk: httpx.Client, served: Served) -> list[JsonObject]:
    answers = [desk.get(served.path(path)) for path in VISIBLE_PATHS]
    assert [answer.status_code for answer in answers] == [200] * len(VISIBLE_PATHS)
    return [answer.json() for answer in answers]


@pytest.mark.parametrize(
    ("verb", "path"), list(endpoints_with_ids()), ids=[" ".join(endpoint) for endpoint in endpoints_with_ids()]
)
def test_objects_of_another_tenant_are_not_found(
    served: Served, desk: httpx.Client, stranger: httpx.Client, verb: str, path: str
) -> None:
    operation = DOCUMENT["paths"][path][verb.lower()]
    admin = set(operation["security"][0]["key"]) <= set(ADMIN)
    for name in (p["name"] for p in operation["parameters"] if p["in"] == "path"):
        assert admin or served.id_of(name, path), f"create one in fuzzing/services.py or add it to SHARED: {path}"
    if path.startswith(ORG_WIDE) and stranger.headers["x-drw-org"] == KEY["x-drw-org"] and not admin:
        return
    before = visible_state(desk, served)
    answer = stranger.request(verb, served.path(path), **body_argument(verb, path, served))
    assert answer.status_code in NOT_FOUND, answer.text
    assert visible_state(desk, served) == before


@pytest.mark.parametrize(
    ("verb", "path"),
    [endpoint for endpoint in endpoints_with_ids() if endpoint[1].startswith(WALLED)],
    ids=[" ".join(endpoint) for endpoint in endpoints_with_ids() if endpoint[1].startswith(WALLED)],
)
def test_objects_inside_a_wall_are_not_found_outside(served: Served, desk: httpx.Client, verb: str, path: str) -> None:
    before = visible_state(desk, served)
    with httpx.Client(base_url=served.url, headers=KEY | OUTSIDE_WALL, timeout=30) as outside:
        answer = outside.request(verb, served.path(path), **body_argument(verb, path, served))
        assert answer.status_code == 404, answer.text
        ids = [served.known[name] for name in ("file_id", "vector_store_id", "run")]
        for path in (*VISIBLE_PATHS[:4], "/api/v1/audit/records?page_size=500"):
            assert not [id_ for id_ in ids if id_ in outside.get(path).text], path
    assert visible_state(desk, served) == before


@pytest.mark.parametrize("path", NAMED_IN_BODIES)
def test_body_references_to_another_tenant_are_not_found(
    served: Served, desk: httpx.Client, stranger: httpx.Client, path: str
) -> None:
    before = visible_state(desk, served)
    answer = stranger.post(path, json=fill(NAMED_IN_BODIES[path], served))
    if path == "/api/v1/runs" and answer.status_code == 200:  # a run fails when it reads the file
        run = answer.json()["id"]
        with stranger.stream("GET", f"/api/v1/runs/{run}:watch") as events:
            assert "event: done" in list(events.iter_lines())
        assert "there is no file" in stranger.get(f"/api/v1/runs/{run}").json()["error"]
    elif path == "/v1/responses":  # a 400 for unknown ids too, as at OpenAI
        assert answer.json()["error"]["code"] == "previous_response_not_found", answer.text
    else:
        assert answer.status_code in NOT_FOUND, answer.text
    assert visible_state(desk, served) == before


def test_lists_and_the_audit_trail_show_only_the_own_objects(
    served: Served, desk: httpx.Client, stranger: httpx.Client
) -> None:
    ids = {served.known[name] for name in ("file_id", "vector_store_id", "run")} | {served.known["/api/v1/keys/{id}"]}
    assert all(id_ in str(visible_state(desk, served)) for id_ in ids)
    for path in VISIBLE_PATHS[:5]:
        if path.startswith("/api/v1/keys") and stranger.headers["x-drw-org"] == KEY["x-drw-org"]:
            continue  # keys belong to the org: listing shows those of all its desks
        text = stranger.get(path).text
        # A run shows the ids of its inputs to its own desk.
        hidden_ids = ids - {served.known["file_id"]} if path == "/api/v1/runs" else ids
        assert not [id_ for id_ in hidden_ids if id_ in text], path
    records = stranger.get("/api/v1/audit/records", params={"page_size": 100}).json()["records"]
    assert {record["actor"] for record in records} <= {stranger.headers["x-drw-key"]}
    first = desk.get("/api/v1/audit/records", params={"page_size": 100}).json()["records"][-1]
    assert stranger.get(f"/api/v1/audit/records/{first['index']}/proof").status_code in NOT_FOUND


def body_argument(verb: str, path: str, served: Served) -> JsonObject:
    return {"json": fill(BODIES.get(path, {}), served)} if verb in ("POST", "PUT") else {}


def test_file_name_cannot_inject_a_header(desk: httpx.Client) -> None:
    for name in ("a\r\nset-cookie: x=1.txt", 'a"; filename="b.exe.txt', "a\nb.txt", "ü€.txt"):
        form: JsonObject = {"file": (name, b"Rates rose."), "purpose": (None, "user_data")}
        created = desk.post("/v1/files", files=form)
        if created.status_code == 200:
            answer = desk.get(f"/v1/files/{created.json()['id']}/content")
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
            assert '"b.exe' not in answer.headers["content-disposition"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        else:
            assert created.status_code == 400
