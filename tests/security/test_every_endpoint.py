"""Every endpoint that there is, asked by four strangers for what another tenant has.

Whatever they are told, nothing of it is the victim's, nothing of the victim's changes, and no service breaks. An
endpoint that is not in `RECIPES` fails its test: say there how a stranger would name what belongs to others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fuzzing.services import DOCUMENT, MODEL, NOT_WRITTEN, Served
from security.victim import DESK, OPERATOR, ORG_AMOUNT, THIEF, VICTIM, Victim, headers, make

PATHS = {
    "/api/v1/keys/{id}": "key",
    "/api/v1/kills/{id}": "kill",
    "/api/v1/desks/{name}": "desk",
    "/api/v1/orgs/{name}": "org",
    "/api/v1/issuers/{name}": "issuer",
    "/api/v1/certificates/{name}": "certificate",
    "/api/v1/aliases/{name}": "alias",
    "/api/v1/routes/{name}": "route",
    "/api/v1/upstreams/{name}": "upstream",
    "/api/v1/templates/{name}": "template",
    "/api/v1/models/{id}": "model",
    "/api/v1/deadLetters/{id}": "run",
}
"""Whose id a parameter of a path is where its own name does not say so."""

NAMING = {"org", "desk", "key", "actor", "resource", "file_id", "file_ids", "files", "tenants"}
"""Fields that name tenants or what they have: each must stand in some recipe of each endpoint that takes it."""

ORG, ITS_DESK = {"org": VICTIM}, {"org": VICTIM, "desk": DESK}
NOTHING: tuple[dict[str, Any], ...] = ({},)
"""The path alone names what is another's, or nothing does."""

DAY = {"period": "DAY", "amount": "0"}
KEYS = ("{key}", "{certificate_key}", "{issuer_key}")
SUBJECTS = (
    *({"subject": "KEY", "name": key, **org} for key in KEYS for org in ({}, ORG)),
    *({"subject": "DESK", "name": DESK, **org} for org in ({}, ORG)),
    *({"subject": "ORG", **org} for org in ({}, ORG)),
    {"subject": "MODEL", "name": MODEL},
)
LIMITS = (
    *({"subject": "KEY", "key": key, **more} for key in KEYS for more in ({}, ORG, ITS_DESK, {"desk": DESK})),
    *({"subject": "DESK", "desk": DESK, **org} for org in ({}, ORG)),
    ORG | {"subject": "ORG"},
    {"subject": "MODEL", "model": MODEL},
)
FILES = [{"file_id": "{file_id}"}]
GRANT = {"scopes": ["models:read"]}

# In the order of the names: what lists comes before what makes something, and so shows nothing of it.
RECIPES: dict[str, tuple[dict[str, Any], ...]] = {
    "GET /api/v1/aliases": NOTHING,
    "PUT /api/v1/aliases/{name}": ({"targets": [{"model": MODEL, "weight": 1}]},),
    "DELETE /api/v1/aliases/{name}": NOTHING,
    "GET /api/v1/audit/checkpoint": NOTHING,
    "GET /api/v1/audit/records": (
        {},
        {"desk": DESK},
        {"actor": "{key}"},
        {"resource": "key/{other_key}"},
        {"page_token": "{index}"},
    ),
    "GET /api/v1/audit/records/{index}/proof": NOTHING,
    "POST /api/v1/audit:verify": NOTHING,
    "POST /api/v1/budgets": tuple(subject | DAY for subject in SUBJECTS),
    "GET /api/v1/budgets": ({}, ORG),
    "POST /api/v1/budgets:remove": tuple({**subject, "period": p} for subject in SUBJECTS for p in ("DAY", "MONTH")),
    "GET /api/v1/certificates": NOTHING,
    "PUT /api/v1/certificates/{name}": (GRANT | ITS_DESK | {"san": "spiffe://thief/x"}, GRANT | {"desk": "den"}),
    "GET /api/v1/certificates/{name}": NOTHING,
    "DELETE /api/v1/certificates/{name}": NOTHING,
    "POST /api/v1/collections": ({"name": "mine"},),
    "GET /api/v1/collections": ({}, {"page_token": "{collection}"}),
    "GET /api/v1/collections/{collection}": NOTHING,
    "GET /api/v1/collections/{collection}/documents": ({}, {"page_token": "{file_id}"}),
    "GET /api/v1/collections/{collection}/indexing": NOTHING,
    "POST /api/v1/collections/{collection}:ask": ({"question": "rates"},),
    "POST /api/v1/collections/{collection}:search": ({"question": "rates"},),
    "GET /api/v1/deadLetters": NOTHING,
    "POST /api/v1/deadLetters/{id}:redrive": NOTHING,
    "GET /api/v1/desks": ({}, ORG),
    "PUT /api/v1/desks/{name}": (GRANT | ORG | {"revoke_wider": True}, GRANT),
    "GET /api/v1/desks/{name}": ({}, ORG),
    "DELETE /api/v1/desks/{name}": ({"revoke_keys": "true"}, ORG | {"revoke_keys": "true"}),
    "POST /api/v1/experiments": ({"name": "mine"},),
    "GET /api/v1/experiments": NOTHING,
    "GET /api/v1/health": NOTHING,
    "GET /api/v1/issuers": NOTHING,
    "PUT /api/v1/issuers/{name}": ({"issuer": "https://thief", "audiences": ["a"], "jwks": "{}", **ORG},),
    "GET /api/v1/issuers/{name}": NOTHING,
    "DELETE /api/v1/issuers/{name}": NOTHING,
    "POST /api/v1/issuers/{name}:refresh": NOTHING,
    "POST /api/v1/keys": (GRANT | ITS_DESK | {"name": "mine"}, GRANT | {"name": "mine", "desk": DESK}),
    "GET /api/v1/keys": ({}, {"all": "true"}, ORG),
    "GET /api/v1/keys/{id}": ({}, ORG),
    "POST /api/v1/keys/{id}:revoke": ({}, ORG),
    "POST /api/v1/keys/{id}:rotate": ({}, ORG),
    "POST /api/v1/kills": (
        *({"subject": "KEY", "name": key, "reason": "mine", **org} for key in KEYS for org in ({}, ORG)),
        {"subject": "DESK", "name": DESK, "reason": "mine", **ORG},
    ),
    "GET /api/v1/kills": ({}, {"all": "true"}),
    "GET /api/v1/kills/{id}": NOTHING,
    "POST /api/v1/kills/{id}:approve": NOTHING,
    "POST /api/v1/kills/{id}:lift": ({"reason": "mine"},),
    "POST /api/v1/limits": tuple({"requests_per_minute": 1, **limit} for limit in LIMITS),
    "GET /api/v1/limits": ({}, ORG),
    "POST /api/v1/limits:remove": SUBJECTS,
    "GET /api/v1/me": NOTHING,
    "GET /api/v1/models": NOTHING,
    "GET /api/v1/models/{id}": NOTHING,
    "GET /api/v1/orgs": NOTHING,
    "PUT /api/v1/orgs/{name}": (GRANT | {"revoke_wider": True},),
    "GET /api/v1/orgs/{name}": NOTHING,
    "DELETE /api/v1/orgs/{name}": NOTHING,
    "POST /api/v1/prices": ({"model": "kite", "prompt_usd_per_million": "2"},),
    "GET /api/v1/prices": NOTHING,
    "GET /api/v1/rollout": NOTHING,
    "GET /api/v1/routes": NOTHING,
    "PUT /api/v1/routes/{name}": ({"path": "/v1/mine", "upstream": "all", "tenants": [VICTIM]},),
    "DELETE /api/v1/routes/{name}": NOTHING,
    "POST /api/v1/routes:explain": (
        {"path": "/v1/chat/completions", "key": "{key}"},
        {"path": "/v1/chat/completions", "desk": DESK},
        {"path": "/v1/kestrel-path"},
        {"path": "/v1/models", "method": "GET"},
    ),
    "POST /api/v1/runs": ({"template": "digest", "inputs": {"files": ["{file_id}"]}},),
    "GET /api/v1/runs": ({}, {"page_token": "{run}"}),
    "GET /api/v1/runs/{run}": NOTHING,
    "POST /api/v1/runs/{run}:cancel": NOTHING,
    "GET /api/v1/runs/{run}:watch": NOTHING,
    "GET /api/v1/signingKeys": NOTHING,
    "POST /api/v1/signingKeys/{kid}:retire": NOTHING,
    "POST /api/v1/signingKeys:rotate": NOTHING,
    "GET /api/v1/spend": ({}, *(ORG | {"by": by} for by in ("key", "desk", "model"))),
    "GET /api/v1/templates": NOTHING,
    "GET /api/v1/templates/{name}": NOTHING,
    "GET /api/v1/upstreams": NOTHING,
    "PUT /api/v1/upstreams/{name}": ({"addresses": ["127.0.0.1:9"]},),
    "DELETE /api/v1/upstreams/{name}": NOTHING,
    "POST /v1/chat/completions": ({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "{key}"},),
    "POST /v1/completions": ({"model": MODEL, "prompt": "hi", "user": "{key}"},),
    "POST /v1/embeddings": ({"model": MODEL, "input": "hi", "user": "{key}"},),
    "POST /v1/files": ({"purpose": "user_data"},),
    "GET /v1/files": ({}, {"after": "{file_id}"}),
    "GET /v1/files/{file_id}": NOTHING,
    "DELETE /v1/files/{file_id}": NOTHING,
    "GET /v1/files/{file_id}/content": NOTHING,
    "GET /v1/models": NOTHING,
    "GET /v1/models/{model}": NOTHING,
    "POST /v1/vector_stores": ({"name": "mine", "file_ids": ["{file_id}"]},),
    "GET /v1/vector_stores": ({}, {"after": "{vector_store_id}"}),
    "GET /v1/vector_stores/{vector_store_id}": NOTHING,
    "POST /v1/vector_stores/{vector_store_id}": ({"name": "stolen"},),
    "DELETE /v1/vector_stores/{vector_store_id}": NOTHING,
    "POST /v1/vector_stores/{vector_store_id}/file_batches": ({"file_ids": ["{file_id}"]}, {"files": FILES}),
    "GET /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}": NOTHING,
    "POST /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel": NOTHING,
    "GET /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files": ({}, {"after": "{file_id}"}),
    "POST /v1/vector_stores/{vector_store_id}/files": ({"file_id": "{file_id}"},),
    "GET /v1/vector_stores/{vector_store_id}/files": ({}, {"after": "{file_id}"}),
    "GET /v1/vector_stores/{vector_store_id}/files/{file_id}": NOTHING,
    "DELETE /v1/vector_stores/{vector_store_id}/files/{file_id}": NOTHING,
    "POST /v1/vector_stores/{vector_store_id}/files/{file_id}": ({"attributes": {"stolen": True}},),
    "GET /v1/vector_stores/{vector_store_id}/files/{file_id}/content": NOTHING,
    "POST /v1/vector_stores/{vector_store_id}/search": ({"query": "rates"},),
    # What no contract describes.
    "GET /metrics/all": NOTHING,
    "GET /healthz": NOTHING,
}

KILLS = "kills are the org's: whoever may kill sees and lifts those of every desk"
SHARED_IN_ORG = {
    "GET /api/v1/kills": KILLS,
    "GET /api/v1/kills/{id}": KILLS,
    "POST /api/v1/kills/{id}:lift": KILLS,
    "POST /api/v1/kills/{id}:approve": KILLS,
    "POST /api/v1/kills": KILLS,
}
"""What every desk of an org may do that holds the scope, and why."""

OPEN = {"GET /healthz"}
INSIDE = {"GET /metrics/all"}
"""What a request without a caller gets from inside: from outside the data plane asks for a key."""
DESCRIBED = {f"{verb.upper()} {path}" for path, verbs in DOCUMENT["paths"].items() for verb in verbs}


@pytest.fixture(scope="module")
def victim(served: Served) -> Iterator[Victim]:
    """The org that all reach for."""
    own = headers(VICTIM, DESK, "key_victim", "platform:admin")
    with (
        httpx.Client(base_url=served.url, headers=own, timeout=30) as client,
        httpx.Client(base_url=served.url, headers=OPERATOR, timeout=30) as operator,
    ):
        yield from make(client, operator)


@pytest.fixture(scope="module")
def nobody(served: Served) -> Iterator[httpx.Client]:
    """A client that says of each request who sends it."""
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def before(victim: Victim) -> dict[str, Any]:
    """What the victim has before anybody comes."""
    return victim.state()


def scopes_of(endpoint: str) -> list[str]:
    if endpoint not in DESCRIBED:
        return ["platform:read"] if endpoint.startswith("GET /metrics/") else []
    verb, path = endpoint.split()
    other = ["models:invoke"] if path.startswith("/v1/models") else []  # which does as well
    return [*DOCUMENT["paths"][path][verb.lower()]["security"][0]["key"], *other]


def strangers(endpoint: str) -> dict[str, dict[str, str]]:
    """Return who comes, as the data plane says it: the last two hold all that a tenant can hold."""
    found: dict[str, dict[str, str]] = {"without a key": {}} if endpoint not in INSIDE else {}
    if needed := scopes_of(endpoint):
        found["without the scope"] = headers(VICTIM, "side", "key_side", "platform:admin", "org:admin", *needed)
    if endpoint not in SHARED_IN_ORG:
        found["of another desk"] = headers(VICTIM, "side", "key_side", "platform:admin", "org:admin")
    return found | {"of another org": headers(THIEF, "den", "key_thief", "platform:admin")}


@pytest.mark.parametrize("endpoint", sorted(DESCRIBED | RECIPES.keys()))
def test_no_request_reaches_data_of_another_tenant(
    nobody: httpx.Client, victim: Victim, before: dict[str, Any], endpoint: Any
) -> None:
    verb, template = endpoint.split()
    assert endpoint in RECIPES, "say in RECIPES how somebody would name what belongs to another tenant here"
    assert _naming(endpoint) <= {name for recipe in RECIPES[endpoint] for name in recipe}, "name these in a recipe"
    path = victim.filled(_path(template))
    for stranger, who in strangers(endpoint).items():
        for recipe in victim.filled(RECIPES[endpoint]):
            answer = nobody.request(verb, path, headers=who, **_sent(verb, template, recipe))
            said = f"{stranger}: {endpoint} {recipe}: {answer.status_code} {answer.text[:500]}"
            assert answer.status_code < 500 or (answer.status_code == 501 and path.startswith(NOT_WRITTEN)), said
            _check_answer(victim, stranger, endpoint, f"{path} {recipe}", recipe, answer, said)
    if verb != "GET":
        after = victim.state()
        assert {what: after[what] for what in after if after[what] != before[what]} == {}


def _check_answer(
    victim: Victim, stranger: str, endpoint: str, asked: str, recipe: dict[str, Any], answer: httpx.Response, said: str
) -> None:
    if stranger == "without a key" and endpoint not in OPEN:
        assert answer.status_code == 401, said
    if stranger == "without the scope":
        assert answer.status_code in (403, 404), said
    if stranger == "of another org" and recipe.get("org") == VICTIM:
        assert answer.status_code in (403, 404), said
    of_org = {ORG_AMOUNT} if stranger == "of another desk" else set()
    assert victim.found_in(answer.text) - victim.found_in(asked) <= of_org, said


def _path(template: str) -> str:
    for start, name in PATHS.items():
        if template.startswith(start):
            return f"{start[: start.index('{')]}{{{name}}}{template.removeprefix(start)}"
    return template


def _sent(verb: str, template: str, recipe: dict[str, Any]) -> dict[str, Any]:
    if template == "/v1/files" and verb == "POST":
        return {"files": {"file": ("mine.txt", b"Mine.")}, "data": recipe}
    return {"params": recipe} if verb in ("GET", "DELETE") else {"json": recipe}


def _naming(endpoint: str) -> set[str]:
    if endpoint not in DESCRIBED:
        return set()
    verb, path = endpoint.split()
    operation = DOCUMENT["paths"][path][verb.lower()]
    found = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        found |= schema.get("properties", {}).keys()
    return found & NAMING
