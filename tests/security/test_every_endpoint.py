"""Every endpoint, called by four kinds of strangers with references to the data of another tenant.

No response contains data of the victim, no data of the victim changes, and no service fails. An endpoint without a
recipe in `RECIPES` fails its test: add the fields with which a stranger would name objects of another tenant.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from fuzzing.services import DOCUMENT, MODEL, Served
from security.victim import DESK, OPERATOR, ORG_AMOUNT, THIEF, VICTIM, Victim, create_victim, headers
from support.json_types import JsonObject

PATH_PARAMETERS = {
    "/v1/batches/{batch_id}": "batch",
    "/api/v1/keys/{id}": "key",
    "/api/v1/kills/{id}": "kill",
    "/api/v1/desks/{name}": "desk",
    "/api/v1/orgs/{name}": "org",
    "/api/v1/issuers/{name}": "issuer",
    "/api/v1/certificates/{name}": "certificate",
    "/api/v1/aliases/{name}/history": "own_alias",
    "/api/v1/aliases/{name}:rollback": "own_alias",
    "/api/v1/aliases/{name}": "alias",
    "/api/v1/experiments/{name}": "experiment",
    "/api/v1/rollouts/{name}": "rollout",
    "/api/v1/routes/{name}": "route",
    "/api/v1/upstreams/{name}": "upstream",
    "/api/v1/templates/{name}": "template",
    "/api/v1/templates/{name}/versions": "template",
    "/api/v1/models/{id}": "model",
    "/api/v1/model-versions/{id}": "version",
    "/api/v1/promotions/{id}": "promotion",
}
"""The kind of object of a path parameter that is only called `id` or `name`."""

TENANT_FIELDS = {"org", "desk", "key", "actor", "resource", "file_id", "file_ids", "files", "tenants"}
"""Fields that name tenants or their objects: a recipe of each endpoint that has such a field must use it."""

ORG, VICTIM_DESK = {"org": VICTIM}, {"org": VICTIM, "desk": DESK}
NO_FIELDS: tuple[JsonObject, ...] = ({},)
"""Only the path names an object of another tenant, or nothing does."""

DAY = {"period": "DAY", "amount": "0"}
KEYS = ("{key}", "{certificate_key}", "{issuer_key}")
SUBJECTS = (
    *({"subject": "KEY", "name": key, **org} for key in KEYS for org in ({}, ORG)),
    *({"subject": "DESK", "name": DESK, **org} for org in ({}, ORG)),
    *({"subject": "ORG", **org} for org in ({}, ORG)),
    {"subject": "MODEL", "name": MODEL},
)
TRIGGER = {"event": "run.ended", "template": "digest", "inputs": {"files": ["{file_id}"]}}
SCHEDULE = {"template": "digest", "cron": "0 0 1 1 *", "inputs": {"files": ["{file_id}"]}}
EXPERIMENT = {
    "name": "mine",
    "unit": "user",
    "arms": [{"name": "control", "weight": 1}, {"name": "other", "weight": 1}],
    "metrics": [{"name": "cost", "kind": "MEAN", "direction": "LOWER_IS_BETTER"}],
}
ROLLOUT = {"name": "mine", "alias": "fast", "model": MODEL, "unit": "user"}
FILE_SEARCH = {"type": "file_search", "vector_store_ids": ["{vector_store_id}"]}
HELLO = [{"role": "user", "content": "hello"}]
UNIT = {"context": {"targetingKey": "user-1"}}
LIMITS = (
    *({"subject": "KEY", "key": key, **fields} for key in KEYS for fields in ({}, ORG, VICTIM_DESK, {"desk": DESK})),
    *({"subject": "DESK", "desk": DESK, **org} for org in ({}, ORG)),
    ORG | {"subject": "ORG"},
    {"subject": "MODEL", "model": MODEL},
)
FILES = [{"file_id": "{file_id}"}]
TEMPLATE = "name: mine\ndescription: x\nnodes: [{id: a, uses: wait, with: {seconds: 1}}]\noutput: 1\n"
BATCH = {"input_file_id": "{file_id}", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
GRANT = {"scopes": ["models:read"]}

LETTERS = ({"ids": ["{dead_letter}"]}, {"group": "{group}"}, {"template": "digest"})

VERSION = {"model": "mine", "kind": "CHAT", "owner": "mine"}
RECORD = {
    "scope": "NOT_IN_SCOPE",
    "scope_reason": "mine",
    "owner": "mine",
    "expires_at": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
}

# Sorted, so that lists run before the endpoints that create objects.
RECIPES: dict[str, tuple[JsonObject, ...]] = {
    "GET /api/v1/aliases": NO_FIELDS,
    "PUT /api/v1/aliases/{name}": ({"targets": [{"model": MODEL, "weight": 1}]},),
    "DELETE /api/v1/aliases/{name}": NO_FIELDS,
    "GET /api/v1/aliases/{name}/history": NO_FIELDS,
    "POST /api/v1/aliases/{name}:rollback": ({"reason": "mine"},),
    "GET /api/v1/audit/checkpoint": NO_FIELDS,
    "GET /api/v1/audit/records": (
        {},
        {"desk": DESK},
        {"actor": "{key}"},
        {"resource": "key/{other_key}"},
        {"page_token": "{index}"},
    ),
    "GET /api/v1/audit/records/{index}/proof": NO_FIELDS,
    "POST /api/v1/audit:verify": NO_FIELDS,
    "POST /api/v1/budgets": tuple(subject | DAY for subject in SUBJECTS),
    "GET /api/v1/budgets": ({}, ORG),
    "POST /api/v1/budgets:remove": tuple({**subject, "period": p} for subject in SUBJECTS for p in ("DAY", "MONTH")),
    "GET /api/v1/certificates": NO_FIELDS,
    "PUT /api/v1/certificates/{name}": (GRANT | VICTIM_DESK | {"san": "spiffe://thief/x"}, GRANT | {"desk": "den"}),
    "GET /api/v1/certificates/{name}": NO_FIELDS,
    "DELETE /api/v1/certificates/{name}": NO_FIELDS,
    "POST /api/v1/collections": ({"name": "mine"},),
    "GET /api/v1/collections": ({}, {"page_token": "{collection}"}),
    "GET /api/v1/collections/{collection}": NO_FIELDS,
    "GET /api/v1/collections/{collection}/documents": ({}, {"page_token": "{file_id}"}),
    "GET /api/v1/collections/{collection}/indexing": NO_FIELDS,
    "POST /api/v1/collections/{collection}:ask": ({"question": "rates"},),
    "POST /api/v1/collections/{collection}:search": ({"question": "rates"},),
    "GET /api/v1/deadLetterGroups": NO_FIELDS,
    "GET /api/v1/deadLetters": ({}, {"group": "{group}"}, {"error": "kestrel"}),
    "GET /api/v1/deadLetters/{dead_letter}": NO_FIELDS,
    "POST /api/v1/deadLetters:discard": tuple({"filter": chosen, "reason": "mine"} for chosen in LETTERS),
    "GET /api/v1/desks": ({}, ORG),
    "PUT /api/v1/desks/{name}": (GRANT | ORG | {"revoke_wider": True}, GRANT),
    "GET /api/v1/desks/{name}": ({}, ORG),
    "DELETE /api/v1/desks/{name}": ({"revoke_keys": "true"}, ORG | {"revoke_keys": "true"}),
    "GET /api/v1/experiments": ({}, {"page_token": "a"}),
    "POST /api/v1/experiments": (EXPERIMENT,),
    "GET /api/v1/experiments/{name}": NO_FIELDS,
    "DELETE /api/v1/experiments/{name}": NO_FIELDS,
    "POST /api/v1/experiments/{name}/exposures": ({"units": ["user-1"]},),
    "POST /api/v1/experiments/{name}/outcomes": ({"outcomes": [{"unit": "user-1", "metric": "cost", "value": 1}]},),
    "GET /api/v1/experiments/{name}/results": NO_FIELDS,
    "POST /api/v1/experiments/{name}:assign": ({"unit": "user-1"},),
    "POST /api/v1/experiments/{name}:start": NO_FIELDS,
    "POST /api/v1/experiments/{name}:stop": ({"reason": "mine"},),
    "POST /api/v1/feedback": ({"response_id": "chatcmpl-1", "metric": "cost", "value": 1},),
    "GET /api/v1/health": NO_FIELDS,
    "GET /api/v1/health/history": ({}, {"service": "model/double"}, {"page_token": "{index}"}),
    "GET /api/v1/health/slos": NO_FIELDS,
    "GET /api/v1/issuers": NO_FIELDS,
    "PUT /api/v1/issuers/{name}": ({"issuer": "https://thief", "audiences": ["a"], "jwks": "{}", **ORG},),
    "GET /api/v1/issuers/{name}": NO_FIELDS,
    "DELETE /api/v1/issuers/{name}": NO_FIELDS,
    "POST /api/v1/issuers/{name}:refresh": NO_FIELDS,
    "POST /api/v1/keys": (GRANT | VICTIM_DESK | {"name": "mine"}, GRANT | {"name": "mine", "desk": DESK}),
    "GET /api/v1/keys": ({}, {"all": "true"}, ORG),
    "GET /api/v1/keys/{id}": ({}, ORG),
    "POST /api/v1/keys/{id}:revoke": ({}, ORG),
    "POST /api/v1/keys/{id}:rotate": ({}, ORG),
    "POST /api/v1/kills": (
        *({"subject": "KEY", "name": key, "reason": "mine", **org} for key in KEYS for org in ({}, ORG)),
        {"subject": "DESK", "name": DESK, "reason": "mine", **ORG},
    ),
    "GET /api/v1/kills": ({}, {"all": "true"}),
    "GET /api/v1/kills/{id}": NO_FIELDS,
    "POST /api/v1/kills/{id}:approve": NO_FIELDS,
    "POST /api/v1/kills/{id}:lift": ({"reason": "mine"},),
    "POST /api/v1/limits": tuple({"requests_per_minute": 1, **limit} for limit in LIMITS),
    "GET /api/v1/limits": ({}, ORG),
    "POST /api/v1/limits:remove": SUBJECTS,
    "GET /api/v1/me": NO_FIELDS,
    "GET /api/v1/model-versions": ({}, {"model": "kestrel-model"}),
    "POST /api/v1/model-versions": (
        VERSION | {"files": [{"path": "model.gguf", "sha256": "{sha256}"}]},
        VERSION | {"files": [{"path": "model.gguf", "sha256": "0" * 64}], "signature_sha256": "{sha256}"},
        VERSION | {"endpoint": {"base_urls": ["http://169.254.169.254/v1"], "upstream_model": "m"}},
    ),
    "GET /api/v1/model-versions/{id}": NO_FIELDS,
    "GET /api/v1/model-versions/{id}/bom": NO_FIELDS,
    "POST /api/v1/model-versions/{id}/evaluations": ({"evaluation": {"suite": "mine", "metrics": {"auc": 1}}},),
    "PUT /api/v1/model-versions/{id}/validation": ({"record": RECORD},),
    "POST /api/v1/model-versions/{id}:approve": NO_FIELDS,
    "POST /api/v1/model-versions/{id}:retire": ({"reason": "mine"},),
    "POST /api/v1/model-versions/{id}:revoke": ({"reason": "mine"},),
    "POST /api/v1/model-versions/{id}:deleteFiles": ({"reason": "mine"},),
    "GET /api/v1/models": NO_FIELDS,
    "GET /api/v1/models/{id}": NO_FIELDS,
    "GET /api/v1/orgs": NO_FIELDS,
    "PUT /api/v1/orgs/{name}": (GRANT | {"revoke_wider": True},),
    "GET /api/v1/orgs/{name}": NO_FIELDS,
    "DELETE /api/v1/orgs/{name}": NO_FIELDS,
    "POST /api/v1/prices": ({"model": "kite", "prompt_usd_per_million": "2"},),
    "GET /api/v1/prices": NO_FIELDS,
    "GET /api/v1/promotions": ({}, {"alias": "kestrel-prod"}),
    "POST /api/v1/promotions": ({"alias": "mine", "version": "{version}", "reason": "mine"},),
    "POST /api/v1/promotions/{id}:approve": NO_FIELDS,
    "POST /api/v1/promotions/{id}:reject": ({"reason": "mine"},),
    "POST /api/v1/redrives": tuple({"filter": c, "dry_run": dry} for c in LETTERS for dry in (True, False)),
    "GET /api/v1/redrives/{redrive}": NO_FIELDS,
    "POST /api/v1/redrives/{redrive}:cancel": NO_FIELDS,
    "GET /api/v1/rollout": NO_FIELDS,
    "POST /api/v1/rollouts": (ROLLOUT,),
    "GET /api/v1/rollouts": ({}, {"page_token": "a"}),
    "GET /api/v1/rollouts/{name}": NO_FIELDS,
    "GET /api/v1/rollouts/{name}/report": NO_FIELDS,
    "POST /api/v1/rollouts/{name}:advance": ({"from_percent": 0},),
    "POST /api/v1/rollouts/{name}:approve": NO_FIELDS,
    "POST /api/v1/rollouts/{name}:pause": NO_FIELDS,
    "POST /api/v1/rollouts/{name}:resume": NO_FIELDS,
    "POST /api/v1/rollouts/{name}:rollback": ({"reason": "mine"},),
    "POST /api/v1/rollouts/{name}:start": NO_FIELDS,
    "GET /api/v1/routes": NO_FIELDS,
    "PUT /api/v1/routes/{name}": ({"path": "/v1/mine", "upstream": "all", "tenants": [VICTIM]},),
    "DELETE /api/v1/routes/{name}": NO_FIELDS,
    "POST /api/v1/routes:explain": (
        {"path": "/v1/chat/completions", "key": "{key}"},
        {"path": "/v1/chat/completions", "desk": DESK},
        {"path": "/v1/kestrel-path"},
        {"path": "/v1/models", "method": "GET"},
    ),
    "POST /api/v1/runs": ({"template": "digest", "inputs": {"files": ["{file_id}"]}},),
    "GET /api/v1/events:tail": ({"last_event_id": "0"}, {"last_event_id": "0", "types": "com.drw.ai.run.ended.v1"}),
    "GET /api/v1/events/parked": ({}, {"type": "com.drw.ai.run.ended.v1"}),
    "POST /api/v1/events/parked:redrive": ({"all": True}, {"parked": ["1"]}),
    "GET /api/v1/runs": ({}, {"page_token": "{run}"}, {"desk": DESK}),
    "GET /api/v1/runs/{run}": NO_FIELDS,
    "POST /api/v1/runs/{run}:cancel": NO_FIELDS,
    "GET /api/v1/runs/{run}:watch": NO_FIELDS,
    "GET /api/v1/runs/{run}:query": NO_FIELDS,
    "GET /api/v1/runs/{run}/payloads/{sha256}": NO_FIELDS,
    "POST /api/v1/runs/{run}:pause": ({}, {"reason": "mine"}),
    "POST /api/v1/runs/{run}:resume": NO_FIELDS,
    "POST /api/v1/runs/{run}:fork": ({}, {"inputs": {"files": ["{file_id}"]}}),
    "POST /api/v1/runs/{run}:retry": NO_FIELDS,
    "POST /api/v1/runs/{run}/signals/{signal}": ({"signal_id": "mine", "payload": {"price": 1}},),
    "GET /api/v1/runs/{run}:replay": NO_FIELDS,
    "POST /api/v1/schedules": ({"name": "mine", "spec": SCHEDULE},),
    "POST /api/v1/schedules:preview": ({"spec": SCHEDULE},),
    "GET /api/v1/schedules": ({}, {"page_token": "{schedule}"}),
    "GET /api/v1/schedules/{schedule}": NO_FIELDS,
    "DELETE /api/v1/schedules/{schedule}": NO_FIELDS,
    "POST /api/v1/schedules/{schedule}:pause": NO_FIELDS,
    "POST /api/v1/schedules/{schedule}:resume": NO_FIELDS,
    "POST /api/v1/schedules/{schedule}:backfill": ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},),
    "POST /api/v1/triggers": ({"name": "mine", "spec": TRIGGER},),
    "GET /api/v1/triggers": ({}, {"page_token": "{trigger}"}),
    "GET /api/v1/triggers/{trigger}": NO_FIELDS,
    "DELETE /api/v1/triggers/{trigger}": NO_FIELDS,
    "POST /api/v1/triggers/{trigger}:pause": NO_FIELDS,
    "POST /api/v1/triggers/{trigger}:resume": NO_FIELDS,
    "GET /api/v1/approvals": NO_FIELDS,
    "POST /api/v1/runs/{run}/approvals/{step}": ({"decision": "APPROVE"}, {"decision": "REJECT"}),
    "POST /api/v1/delegations": (
        {"delegate": "{key}", "delegate_desk": DESK},
        {"delegate": "{key}", "run": "{run}", "step": "{step}"},
    ),
    "GET /api/v1/delegations": NO_FIELDS,
    "DELETE /api/v1/delegations/{delegation}": NO_FIELDS,
    "POST /api/v1/approvalLinks": ({"run": "{run}", "step": "{step}", "approver": "{key}"},),
    "GET /api/v1/approvalLinks/{token}": NO_FIELDS,
    "POST /api/v1/approvalLinks/{token}": ({"decision": "APPROVE"}, {"decision": "REJECT"}),
    "POST /api/v1/holds": (
        *({"kind": kind, "name": name, "reason": "mine"} for kind, name in (("RUN", "{run}"), ("TEMPLATE", "x"))),
        *({"kind": kind, "reason": "mine"} for kind in ("DESK", "ORG")),
    ),
    "GET /api/v1/holds": ({}, {"all": "true"}),
    "POST /api/v1/holds/{hold}:release": ({"reason": "mine"},),
    "GET /api/v1/signingKeys": NO_FIELDS,
    "POST /api/v1/signingKeys/{kid}:retire": NO_FIELDS,
    "POST /api/v1/signingKeys:rotate": NO_FIELDS,
    "GET /api/v1/spend": ({}, *(ORG | {"by": by} for by in ("key", "desk", "model"))),
    "GET /api/v1/templates": NO_FIELDS,
    "GET /api/v1/templates/{name}": NO_FIELDS,
    "PUT /api/v1/templates/{name}": ({"source": TEMPLATE},),
    "DELETE /api/v1/templates/{name}": NO_FIELDS,
    "GET /api/v1/templates/{name}/versions": NO_FIELDS,
    "POST /api/v1/templates:validate": ({"source": TEMPLATE},),
    "GET /api/v1/upstreams": NO_FIELDS,
    "PUT /api/v1/upstreams/{name}": ({"addresses": ["127.0.0.1:9"]},),
    "DELETE /api/v1/upstreams/{name}": NO_FIELDS,
    "POST /v1/chat/completions": ({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "{key}"},),
    "POST /v1/completions": ({"model": MODEL, "prompt": "hi", "user": "{key}"},),
    "POST /v1/embeddings": ({"model": MODEL, "input": "hi", "user": "{key}"},),
    "POST /v1/batches": (BATCH, BATCH | {"input_file_id": "{batch_file}"}),
    "GET /v1/batches": ({}, {"after": "{batch}"}),
    "GET /v1/batches/{batch_id}": NO_FIELDS,
    "POST /v1/batches/{batch_id}/cancel": NO_FIELDS,
    "POST /v1/rerank": ({"model": MODEL, "query": "rates", "documents": ["rates"]},),
    "POST /v1/tokenize": ({"model": MODEL, "prompt": "rates"},),
    "POST /v1/detokenize": ({"model": MODEL, "tokens": [1]},),
    "POST /v1/moderations": ({"model": MODEL, "input": "rates"},),
    "POST /v1/files": ({"purpose": "user_data"},),
    "GET /v1/files": ({}, {"after": "{file_id}"}),
    "GET /v1/files/{file_id}": NO_FIELDS,
    "DELETE /v1/files/{file_id}": NO_FIELDS,
    "GET /v1/files/{file_id}/content": NO_FIELDS,
    "GET /v1/models": NO_FIELDS,
    "GET /v1/models/{model}": NO_FIELDS,
    "POST /v1/vector_stores": ({"name": "mine", "file_ids": ["{file_id}"]},),
    "GET /v1/vector_stores": ({}, {"after": "{vector_store_id}"}),
    "GET /v1/vector_stores/{vector_store_id}": NO_FIELDS,
    "POST /v1/vector_stores/{vector_store_id}": ({"name": "stolen"},),
    "DELETE /v1/vector_stores/{vector_store_id}": NO_FIELDS,
    "POST /v1/vector_stores/{vector_store_id}/file_batches": ({"file_ids": ["{file_id}"]}, {"files": FILES}),
    "GET /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}": NO_FIELDS,
    "POST /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel": NO_FIELDS,
    "GET /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files": ({}, {"after": "{file_id}"}),
    "POST /v1/vector_stores/{vector_store_id}/files": ({"file_id": "{file_id}"},),
    "GET /v1/vector_stores/{vector_store_id}/files": ({}, {"after": "{file_id}"}),
    "GET /v1/vector_stores/{vector_store_id}/files/{file_id}": NO_FIELDS,
    "DELETE /v1/vector_stores/{vector_store_id}/files/{file_id}": NO_FIELDS,
    "POST /v1/vector_stores/{vector_store_id}/files/{file_id}": ({"attributes": {"stolen": True}},),
    "GET /v1/vector_stores/{vector_store_id}/files/{file_id}/content": NO_FIELDS,
    "POST /v1/vector_stores/{vector_store_id}/search": ({"query": "rates"},),
    "POST /v1/responses": (
        {"model": MODEL, "input": "rates", "previous_response_id": "{response_id}"},
        {"model": MODEL, "input": "rates", "tools": [FILE_SEARCH], "user": "{key}"},
    ),
    "GET /v1/responses/{response_id}": NO_FIELDS,
    "DELETE /v1/responses/{response_id}": NO_FIELDS,
    "GET /v1/responses/{response_id}/input_items": ({}, {"after": "{file_id}"}),
    "POST /v1/responses/{response_id}/cancel": NO_FIELDS,
    "POST /v1/messages": ({"model": MODEL, "max_tokens": 1, "messages": HELLO, "metadata": {"user_id": "{key}"}},),
    "POST /v1/messages/count_tokens": ({"model": MODEL, "messages": HELLO},),
    # Endpoints without a contract.
    "HEAD /api/v1/model-files/{sha256}": NO_FIELDS,
    "POST /ofrep/v1/evaluate/flags": (UNIT,),
    "POST /ofrep/v1/evaluate/flags/{experiment}": (UNIT,),
    "GET /metrics/all": NO_FIELDS,
    "GET /healthz": NO_FIELDS,
    "GET /livez": NO_FIELDS,
    "GET /readyz": NO_FIELDS,
    "GET /startupz": NO_FIELDS,
}

KILLS = "kills are the org's: whoever may kill sees and lifts those of every desk"
SHARED_IN_ORG = {
    "GET /api/v1/kills": KILLS,
    "GET /api/v1/kills/{id}": KILLS,
    "POST /api/v1/kills/{id}:lift": KILLS,
    "POST /api/v1/kills/{id}:approve": KILLS,
    "POST /api/v1/kills": KILLS,
    "GET /api/v1/events:tail": "kills and aliases are the org's: their events need the same scopes",
    **dict.fromkeys(
        (
            "GET /api/v1/health",
            "GET /api/v1/health/history",
            "GET /api/v1/model-versions",
            "GET /api/v1/model-versions/{id}",
            "GET /api/v1/model-versions/{id}/bom",
            "POST /api/v1/model-versions/{id}/evaluations",
            "PUT /api/v1/model-versions/{id}/validation",
            "POST /api/v1/model-versions/{id}:approve",
            "POST /api/v1/model-versions/{id}:retire",
            "POST /api/v1/model-versions/{id}:revoke",
            "POST /api/v1/model-versions/{id}:deleteFiles",
            "POST /api/v1/model-versions",
            "HEAD /api/v1/model-files/{sha256}",
            "GET /api/v1/models",
            "GET /v1/models",
            "GET /api/v1/aliases",
            "GET /api/v1/aliases/{name}/history",
            "POST /api/v1/aliases/{name}:rollback",
            "GET /api/v1/promotions",
            "POST /api/v1/promotions",
            "POST /api/v1/promotions/{id}:approve",
            "POST /api/v1/promotions/{id}:reject",
        ),
        "versions of models are the org's: desks share them inside their walls",
    ),
}
"""Endpoints that every desk of an org with the scope may call, and why."""

PUBLIC = {"GET /healthz", "GET /livez", "GET /readyz", "GET /startupz"}
INTERNAL = {"GET /metrics/all"}
"""Endpoints that need no caller inside the platform; the data plane asks outside callers for a key."""
DESCRIBED = {f"{verb.upper()} {path}" for path, verbs in DOCUMENT["paths"].items() for verb in verbs}


@pytest.fixture(scope="module")
def victim(served: Served) -> Iterator[Victim]:
    """The org whose data the strangers try to reach."""
    identity = headers(VICTIM, DESK, "key_victim", "platform:admin")
    with (
        httpx.Client(base_url=served.url, headers=identity, timeout=30) as client,
        httpx.Client(base_url=served.url, headers=OPERATOR, timeout=30) as operator,
    ):
        yield from create_victim(client, operator)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    """A client without identity headers; each test sets those of its caller."""
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def before(victim: Victim) -> dict[str, bytes]:
    """The state of the victim before the strangers call."""
    return victim.state()


def scopes_of(endpoint: str) -> list[str]:
    if endpoint not in DESCRIBED:
        return ["platform:read"] if endpoint.startswith("GET /metrics/") else []
    verb, path = endpoint.split()
    alternatives = ["models:invoke"] if path.startswith("/v1/models") else []  # sufficient as well
    return [*DOCUMENT["paths"][path][verb.lower()]["security"][0]["key"], *alternatives]


def strangers(endpoint: str) -> dict[str, dict[str, str]]:
    """Return the identity headers of each stranger; the last two hold every scope that a tenant can hold."""
    callers: dict[str, dict[str, str]] = {"without a key": {}} if endpoint not in INTERNAL else {}
    if required := scopes_of(endpoint):
        callers["without the scope"] = headers(VICTIM, "side", "key_side", "platform:admin", "org:admin", *required)
    if endpoint not in SHARED_IN_ORG:
        callers["of another desk"] = headers(VICTIM, "side", "key_side", "platform:admin", "org:admin")
    return callers | {"of another org": headers(THIEF, "den", "key_thief", "platform:admin")}


@pytest.mark.parametrize("endpoint", sorted(DESCRIBED | RECIPES.keys()))
def test_no_request_reaches_data_of_another_tenant(
    client: httpx.Client, victim: Victim, before: dict[str, bytes], endpoint: str
) -> None:
    verb, template = endpoint.split()
    assert endpoint in RECIPES, "add a recipe that names objects of another tenant"
    assert _tenant_fields(endpoint) <= {name for recipe in RECIPES[endpoint] for name in recipe}, (
        "name these in a recipe"
    )
    path = victim.fill(_with_parameter(template))
    for stranger, caller in strangers(endpoint).items():
        for recipe in victim.fill(RECIPES[endpoint]):
            answer = client.request(verb, path, headers=caller, **_request_argument(verb, template, recipe))
            details = f"{stranger}: {endpoint} {recipe}: {answer.status_code} {answer.text[:500]}"
            assert answer.status_code < 500, details
            _check_answer(victim, stranger, endpoint, f"{path} {recipe}", recipe, answer, details)
    if verb != "GET":
        after = victim.state()
        assert {kind: after[kind] for kind in after if after[kind] != before[kind]} == {}


def _check_answer(
    victim: Victim,
    stranger: str,
    endpoint: str,
    requested: str,
    recipe: JsonObject,
    answer: httpx.Response,
    details: str,
) -> None:
    if stranger == "without a key" and endpoint not in PUBLIC:
        assert answer.status_code == 401, details
    if stranger == "without the scope":
        assert answer.status_code in (403, 404), details
    if stranger == "of another org" and recipe.get("org") == VICTIM:
        assert answer.status_code in (403, 404), details
    of_org = {ORG_AMOUNT} if stranger == "of another desk" else set()
    assert victim.leaks_in(answer.text) - victim.leaks_in(requested) <= of_org, details


def _with_parameter(template: str) -> str:
    for start, name in PATH_PARAMETERS.items():
        if template.startswith(start):
            before, after = start.split("{")[0], start.split("}")[1]
            return f"{before}{{{name}}}{after}{template.removeprefix(start)}"
    return template


def _request_argument(verb: str, template: str, recipe: JsonObject) -> JsonObject:
    if template == "/v1/files" and verb == "POST":
        return {"files": {"file": ("mine.txt", b"Mine.")}, "data": recipe}
    return {"params": recipe} if verb in ("GET", "DELETE") else {"json": recipe}


def _tenant_fields(endpoint: str) -> set[str]:
    if endpoint not in DESCRIBED:
        return set()
    verb, path = endpoint.split()
    operation = DOCUMENT["paths"][path][verb.lower()]
    names = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        names |= schema.get("properties", {}).keys()
    return names & TENANT_FIELDS
