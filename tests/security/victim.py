"""An org with one object of each kind, created over HTTP, for tests that try to reach it from outside.

Each of its texts contains the word `kestrel`, and its amounts occur nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from drw.kernel.rpc.context import SCOPES
from fuzzing.services import MODEL
from support.approvals import create_approval
from support.dead_letters import create_dead_letter
from support.gateway.model_versions import create_version
from support.json_types import Json, JsonObject
from support.parts import wait_until

VICTIM, DESK, THIEF = "victim", "trading", "thief"
OPERATOR = {"x-drw-org": "home", "x-drw-desk": "ops", "x-drw-key": "key_operator", "x-drw-scopes": " ".join(SCOPES)}
ORG_AMOUNT = "9911.37"
AMOUNTS = ("4711.17", "471117", ORG_AMOUNT)
WORD = re.compile(r"kestrel[\w-]*")

TEMPLATE = "name: {name}\ndescription: {description}\nnodes: [{{id: a, uses: wait, with: {{seconds: 1}}}}]\noutput: 1\n"

VICTIM_PATHS = (
    *("/api/v1/me", "/api/v1/keys?all=true", "/api/v1/desks", "/api/v1/limits", "/api/v1/budgets"),
    *(
        "/api/v1/collections",
        "/api/v1/runs",
        "/api/v1/runs/{run}",
        "/api/v1/deadLetters",
        "/api/v1/deadLetters/{dead_letter}",
        "/api/v1/redrives/{redrive}",
        "/api/v1/schedules",
        "/api/v1/schedules/{schedule}",
        "/api/v1/triggers",
        "/api/v1/triggers/{trigger}",
        "/api/v1/events/parked",
        "/api/v1/approvals",
        "/api/v1/delegations",
        "/api/v1/holds?all=true",
        "/api/v1/templates",
        "/api/v1/templates/{template}/versions",
        "/api/v1/kills",
        "/api/v1/experiments",
        "/api/v1/model-versions",
        "/api/v1/model-versions/{version}",
        "/api/v1/promotions",
        "/api/v1/aliases/{own_alias}/history",
        "/v1/files",
        "/v1/batches",
        "/v1/batches/{batch}",
        "/v1/vector_stores",
    ),
    *("/v1/files/{file_id}/content", "/v1/vector_stores/{vector_store_id}/files"),
    *("/v1/vector_stores/{vector_store_id}/files/{file_id}", "/api/v1/collections/{collection}/documents"),
    "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}",
    "/v1/responses/{response_id}",
)
OPERATOR_PATHS = tuple(
    f"/api/v1/{kind}"
    for kind in (
        "aliases",
        "routes",
        "upstreams",
        "prices",
        "orgs",
        "issuers",
        "certificates",
        "signingKeys",
        "rollouts",
    )
)


def headers(org: str, desk: str, key: str, *excluded: str) -> dict[str, str]:
    """Return the identity headers of a caller with every scope except these."""
    scopes = " ".join(scope for scope in SCOPES if scope not in excluded)
    return {"x-drw-org": org, "x-drw-desk": desk, "x-drw-key": key, "x-drw-scopes": scopes}


BUDGET_COUNTERS = re.compile(rb',?"(spent|reserved|left|resets_at)":"[^"]*"')
"""Counters in a budget: they are empty while a rebuild runs, so comparisons ignore them."""


@dataclass
class Victim:
    """The ids of its objects by the name of their path parameter, and clients of the victim and the operator."""

    client: httpx.Client
    operator: httpx.Client
    ids: dict[str, str] = field(default_factory=dict)

    def fill(self, template: Json) -> Json:
        """Return a template with each name like `{run}` replaced by its id."""
        if isinstance(template, Mapping):
            return {name: self.fill(value) for name, value in template.items()}
        if isinstance(template, list | tuple):
            return [self.fill(value) for value in template]
        if not isinstance(template, str):
            return template
        return re.sub(r"{(\w+)}", lambda match: self.ids[match[1]], template)

    def state(self) -> dict[str, bytes]:
        """Return everything that the victim and the operator see, except the audit trail."""
        requested = [(self.client, path) for path in VICTIM_PATHS] + [(self.operator, path) for path in OPERATOR_PATHS]
        answers = {path: client.get(self.fill(path)) for client, path in requested}
        desk_headers = headers(VICTIM, DESK, self.ids["key"], "org:admin", "platform:admin")
        # The spend of the desk, not of the org.
        answers["/api/v1/spend"] = self.client.get("/api/v1/spend", headers=desk_headers)
        assert {path: a.status_code for path, a in answers.items() if a.status_code != 200} == {}
        return {path: BUDGET_COUNTERS.sub(b"", answer.content) for path, answer in answers.items()}

    def leaks_in(self, text: str) -> set[str]:
        """Return the ids, words and amounts of the victim that a text contains."""
        secrets = {id_ for name, id_ in self.ids.items() if name not in SHARED_IDS} | set(AMOUNTS)
        return {secret for secret in secrets if secret in text} | set(WORD.findall(text))


SHARED_IDS = ("index", "model", "template", "upstream", "alias", "org", "desk", "certificate", "issuer", "route")
"""Names of ids that are not secret, or that `WORD` finds anyway."""


def create_victim(client: httpx.Client, operator: httpx.Client) -> Iterator[Victim]:
    """Create the victim's org with its objects, and another tenant with only a desk."""
    victim = Victim(client, operator)
    ids = victim.ids

    def create(client: httpx.Client, path: str, verb: str = "POST", **options: Json) -> Json:
        answer = client.request(verb, victim.fill(path), **options)
        assert answer.status_code == 200, f"{verb} {path}: {answer.text}"
        return answer.json()

    all_scopes = {"scopes": list(SCOPES)}
    for org, desks in ((VICTIM, (DESK, "side")), (THIEF, ("den",))):
        create(operator, f"/api/v1/orgs/{org}", "PUT", json=all_scopes)
        for desk in desks:
            title = {"title": "kestrel-desk"} if desk == DESK else {}
            create(operator, f"/api/v1/desks/{desk}", "PUT", json=all_scopes | title | {"org": org})
    tenant = {"org": VICTIM, "desk": DESK}
    for name in ("key", "other_key"):
        requested = {"name": f"kestrel-{name}", "scopes": [s for s in SCOPES if s != "platform:admin"], **tenant}
        ids[name] = create(operator, "/api/v1/keys", json=requested)["key"]["id"]
    client.headers["x-drw-key"] = ids["key"]
    public = {**json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())), "kid": "k1"}
    issuer = {"issuer": "https://kestrel-issuer", "audiences": ["drw"], "jwks": json.dumps({"keys": [public]})}
    create(operator, "/api/v1/issuers/kestrel-idp", "PUT", json=issuer | {"org": VICTIM, "default_desk": DESK})
    certificate = {"san": "spiffe://kestrel-firm/desk", "scopes": ["models:read"], **tenant}
    create(operator, "/api/v1/certificates/kestrel-cert", "PUT", json=certificate)
    ids |= {"certificate_key": "cert:kestrel-cert", "issuer_key": "oidc:kestrel-idp:kestrel-person"}
    ids |= {"issuer": "kestrel-idp", "certificate": "kestrel-cert", "org": VICTIM, "desk": DESK}
    create(operator, "/api/v1/aliases/fast", "PUT", json={"targets": [{"model": MODEL, "weight": 1}]})
    arms = [{"name": "control", "weight": 1}, {"name": "other", "weight": 1, "value": "kestrel-value"}]
    metric = {"name": "cost", "kind": "MEAN", "direction": "LOWER_IS_BETTER"}
    experiment = {"name": "kestrel-experiment", "unit": "user", "arms": arms, "metrics": [metric]}
    ids["experiment"] = create(client, "/api/v1/experiments", json=experiment)["name"]
    create(client, "/api/v1/experiments/{experiment}:start")
    create(client, "/api/v1/experiments/{experiment}/exposures", json={"units": ["user-1"]})
    rollout = {"name": "kestrel-rollout", "alias": "fast", "model": MODEL, "unit": "user", "steps": [50]}
    ids["rollout"] = create(operator, "/api/v1/rollouts", json=rollout)["name"]
    identity = headers(VICTIM, DESK, "", "platform:admin")
    ids |= create_version(client, identity, "kestrel-model", "kestrel-prod", "kestrel-text")
    ids["own_alias"] = "kestrel-prod"
    create(operator, "/api/v1/prices", json={"model": "kite", "prompt_usd_per_million": "1"})
    route = {"path": "/v1/kestrel-path", "upstream": "all", "scopes": ["models:read"], "tenants": [f"{VICTIM}/{DESK}"]}
    wait_until(lambda: operator.get("/api/v1/routes").status_code == 200, "the routes")
    create(operator, "/api/v1/routes/kestrel-route", "PUT", json=route)
    wait_until(lambda: "kestrel-route" in operator.get("/api/v1/routes").text, "the route")
    ids |= {"alias": "fast", "route": "kestrel-route", "upstream": "all", "model": MODEL, "step": "kestrel-step"}
    ids["signal"] = "kestrel_signal"
    ids["kid"] = create(operator, "/api/v1/signingKeys", "GET")["signing_keys"][0]["kid"]

    def key_is_known(key: str) -> bool:
        requested = {"subject": "KEY", "key": key, "requests_per_minute": 471117}
        return client.post("/api/v1/limits", json=requested).status_code == 200

    for name in ("key", "certificate_key", "issuer_key"):
        wait_until(partial(key_is_known, ids[name]), f"the {name}")
        create(client, "/api/v1/budgets", json={"name": ids[name], "period": "DAY", "amount": "4711.17"})
    create(client, "/api/v1/limits", json={"subject": "DESK", "desk": DESK, "tokens_per_minute": 471117})
    create(client, "/api/v1/budgets", json={"subject": "DESK", "name": DESK, "period": "MONTH", "amount": "4711.17"})
    create(client, "/api/v1/budgets", json={"subject": "ORG", "period": "MONTH", "amount": ORG_AMOUNT})
    upload: JsonObject = {
        "files": {"file": ("kestrel-file.txt", b"kestrel-content: rates rose.")},
        "data": {"purpose": "user_data"},
    }
    ids["file_id"] = create(client, "/v1/files", **upload)["id"]
    line: JsonObject = {"custom_id": "kestrel-line", "method": "POST", "url": "/v1/chat/completions"}
    line["body"] = {"model": MODEL, "messages": [{"role": "user", "content": "kestrel-prompt"}]}
    requests: JsonObject = {"files": {"file": ("kestrel.jsonl", json.dumps(line))}, "data": {"purpose": "batch"}}
    ids["batch_file"] = create(client, "/v1/files", **requests)["id"]
    batch = {"input_file_id": ids["batch_file"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    ids["batch"] = create(client, "/v1/batches", json=batch | {"metadata": {"a": "kestrel-batch"}})["id"]
    ids["vector_store_id"] = ids["collection"] = create(client, "/v1/vector_stores", json={"name": "kestrel-store"})[
        "id"
    ]
    batches = "/v1/vector_stores/{vector_store_id}/file_batches"
    ids["batch_id"] = create(client, batches, json={"file_ids": [ids["file_id"]]})["id"]
    ids["run"] = create(client, "/api/v1/runs", json={"template": "digest", "inputs": {"files": [ids["file_id"]]}})[
        "id"
    ]
    ids |= create_dead_letter(client, headers(VICTIM, DESK, ids["key"], "platform:admin"))
    spec = {"template": "digest", "cron": "0 0 1 1 *", "inputs": {"files": [ids["file_id"]]}}
    ids["schedule"] = create(client, "/api/v1/schedules", json={"name": "kestrel-schedule", "spec": spec})["id"]
    on_end = {"event": "run.ended", "filter": "false", "template": "digest", "inputs": {"files": [ids["file_id"]]}}
    ids["trigger"] = create(client, "/api/v1/triggers", json={"name": "kestrel-trigger", "spec": on_end})["id"]
    identity = headers(VICTIM, DESK, ids["key"], "platform:admin")
    delegate = {"san": "spiffe://kestrel-firm/delegate", "scopes": ["workflows:approve"], **tenant}
    create(operator, "/api/v1/certificates/kestrel-delegate", "PUT", json=delegate)
    approver = ids["issuer_key"]
    ids |= create_approval(client, identity, approver, "cert:kestrel-delegate", "kestrel_sign", "kestrel-title")
    source = TEMPLATE.format(name="kestrel_template", description="kestrel-description")
    ids["template"] = create(client, "/api/v1/templates/kestrel_template", "PUT", json={"source": source})["name"]
    ids["response_id"] = create(client, "/v1/responses", json={"model": MODEL, "input": "kestrel-question"})["id"]
    kill = {"subject": "KEY", "name": ids["other_key"], "reason": "kestrel-reason"}
    ids["kill"] = create(client, "/api/v1/kills", json=kill)["id"]
    ids["index"] = str(create(client, "/api/v1/audit/records", "GET")["records"][-1]["index"])
    wait_until(lambda: '"in_progress":0' in client.get(victim.fill(f"{batches}/{{batch_id}}")).text, "the batch")
    wait_until(
        lambda: client.get(victim.fill("/v1/batches/{batch}")).json()["status"] == "completed", "the batch of requests"
    )
    final_states = {"SUCCEEDED", "FAILED"}
    wait_until(lambda: client.get(victim.fill("/api/v1/runs/{run}")).json()["state"] in final_states, "the run")
    yield victim
