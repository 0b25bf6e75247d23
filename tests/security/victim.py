"""An org that has one of everything, for tests that reach for it from outside: made over HTTP, as people make it.

Every text of its own has the word `kestrel` in it, and its amounts are found nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from drw.kernel.rpc.context import SCOPES
from fuzzing.services import MODEL
from support.parts import wait_until

VICTIM, DESK, THIEF = "victim", "trading", "thief"
OPERATOR = {"x-drw-org": "home", "x-drw-desk": "ops", "x-drw-key": "key_operator", "x-drw-scopes": " ".join(SCOPES)}
ORG_AMOUNT = "9911.37"
AMOUNTS = ("4711.17", "471117", ORG_AMOUNT)
WORD = re.compile(r"kestrel[\w-]*")

SEEN_BY_VICTIM = (
    *("/api/v1/me", "/api/v1/keys?all=true", "/api/v1/desks", "/api/v1/limits", "/api/v1/budgets"),
    *("/api/v1/collections", "/api/v1/runs", "/api/v1/runs/{run}", "/api/v1/kills", "/v1/files", "/v1/vector_stores"),
    *("/v1/files/{file_id}/content", "/v1/vector_stores/{vector_store_id}/files"),
    *("/v1/vector_stores/{vector_store_id}/files/{file_id}", "/api/v1/collections/{collection}/documents"),
    "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}",
)
SEEN_BY_OPERATOR = tuple(
    f"/api/v1/{what}"
    for what in ("aliases", "routes", "upstreams", "prices", "orgs", "issuers", "certificates", "signingKeys")
)


def headers(org: str, desk: str, key: str, *without: str) -> dict[str, str]:
    """Return what the data plane says of a caller that holds every scope but these."""
    scopes = " ".join(scope for scope in SCOPES if scope not in without)
    return {"x-drw-org": org, "x-drw-desk": desk, "x-drw-key": key, "x-drw-scopes": scopes}


COUNTED = re.compile(rb',?"(spent|reserved|left|resets_at)":"[^"]*"')
"""What a budget shows of the counters of money, which may be rebuilt at any moment and then show nothing."""


@dataclass
class Victim:
    """The ids of what it has, by what names them in paths, and clients for it and for the operator."""

    own: httpx.Client
    operator: httpx.Client
    ids: dict[str, str] = field(default_factory=dict)

    def filled(self, template: Any) -> Any:
        """Return a template with ids in place of their names, as in `{run}`."""
        if isinstance(template, Mapping):
            return {name: self.filled(value) for name, value in template.items()}
        if isinstance(template, list | tuple):
            return [self.filled(value) for value in template]
        if not isinstance(template, str):
            return template
        return re.sub(r"{(\w+)}", lambda found: self.ids[found[1]], template)

    def state(self) -> dict[str, Any]:
        """Return all that the victim and the operator see, but for the audit log."""
        asked = [(self.own, path) for path in SEEN_BY_VICTIM] + [(self.operator, path) for path in SEEN_BY_OPERATOR]
        answers = {path: client.get(self.filled(path)) for client, path in asked}
        only = headers(VICTIM, DESK, self.ids["key"], "org:admin", "platform:admin")
        answers["/api/v1/spend"] = self.own.get("/api/v1/spend", headers=only)  # of the desk, not of the org
        assert {path: a.status_code for path, a in answers.items() if a.status_code != 200} == {}
        return {path: COUNTED.sub(b"", answer.content) for path, answer in answers.items()}

    def found_in(self, text: str) -> set[str]:
        """Return which of the victim's ids, words and amounts a text has."""
        secret = {id_ for name, id_ in self.ids.items() if name not in SHARED_IDS} | set(AMOUNTS)
        return {one for one in secret if one in text} | set(WORD.findall(text))


SHARED_IDS = ("index", "model", "template", "upstream", "alias", "org", "desk", "certificate", "issuer", "route")
"""Names that are no secrets: what is the platform's, and what `WORD` finds by itself."""


def make(own: httpx.Client, operator: httpx.Client) -> Iterator[Victim]:
    """Make the victim's org and all that it has; and the other tenants, who have a desk each and nothing else."""
    victim = Victim(own, operator)
    ids = victim.ids

    def made(client: httpx.Client, path: str, verb: str = "POST", **more: Any) -> Any:
        answer = client.request(verb, victim.filled(path), **more)
        assert answer.status_code == 200, f"{verb} {path}: {answer.text}"
        return answer.json()

    every = {"scopes": list(SCOPES)}
    for org, desks in ((VICTIM, (DESK, "side")), (THIEF, ("den",))):
        made(operator, f"/api/v1/orgs/{org}", "PUT", json=every)
        for desk in desks:
            title = {"title": "kestrel-desk"} if desk == DESK else {}
            made(operator, f"/api/v1/desks/{desk}", "PUT", json=every | title | {"org": org})
    of = {"org": VICTIM, "desk": DESK}
    for name in ("key", "other_key"):
        asked = {"name": f"kestrel-{name}", "scopes": [s for s in SCOPES if s != "platform:admin"], **of}
        ids[name] = made(operator, "/api/v1/keys", json=asked)["key"]["id"]
    own.headers["x-drw-key"] = ids["key"]
    public = {**json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())), "kid": "k1"}
    issuer = {"issuer": "https://kestrel-issuer", "audiences": ["drw"], "jwks": json.dumps({"keys": [public]})}
    made(operator, "/api/v1/issuers/kestrel-idp", "PUT", json=issuer | {"org": VICTIM, "default_desk": DESK})
    certificate = {"san": "spiffe://kestrel-firm/desk", "scopes": ["models:read"], **of}
    made(operator, "/api/v1/certificates/kestrel-cert", "PUT", json=certificate)
    ids |= {"certificate_key": "cert:kestrel-cert", "issuer_key": "oidc:kestrel-idp:kestrel-person"}
    ids |= {"issuer": "kestrel-idp", "certificate": "kestrel-cert", "org": VICTIM, "desk": DESK}
    made(operator, "/api/v1/aliases/fast", "PUT", json={"targets": [{"model": MODEL, "weight": 1}]})
    made(operator, "/api/v1/prices", json={"model": "kite", "prompt_usd_per_million": "1"})
    route = {"path": "/v1/kestrel-path", "upstream": "all", "scopes": ["models:read"], "tenants": [f"{VICTIM}/{DESK}"]}
    wait_until(lambda: operator.get("/api/v1/routes").status_code == 200, "the routes")
    made(operator, "/api/v1/routes/kestrel-route", "PUT", json=route)
    wait_until(lambda: "kestrel-route" in operator.get("/api/v1/routes").text, "the route")
    ids |= {"alias": "fast", "route": "kestrel-route", "upstream": "all", "model": MODEL, "template": "digest"}
    ids["kid"] = made(operator, "/api/v1/signingKeys", "GET")["signing_keys"][0]["kid"]

    def announced(key: str) -> bool:
        asked = {"subject": "KEY", "key": key, "requests_per_minute": 471117}
        return own.post("/api/v1/limits", json=asked).status_code == 200

    for name in ("key", "certificate_key", "issuer_key"):
        wait_until(partial(announced, ids[name]), f"the {name}")
        made(own, "/api/v1/budgets", json={"name": ids[name], "period": "DAY", "amount": "4711.17"})
    made(own, "/api/v1/limits", json={"subject": "DESK", "desk": DESK, "tokens_per_minute": 471117})
    made(own, "/api/v1/budgets", json={"subject": "DESK", "name": DESK, "period": "MONTH", "amount": "4711.17"})
    made(own, "/api/v1/budgets", json={"subject": "ORG", "period": "MONTH", "amount": ORG_AMOUNT})
    upload: dict[str, Any] = {
        "files": {"file": ("kestrel-file.txt", b"kestrel-content: rates rose.")},
        "data": {"purpose": "user_data"},
    }
    ids["file_id"] = made(own, "/v1/files", **upload)["id"]
    ids["vector_store_id"] = ids["collection"] = made(own, "/v1/vector_stores", json={"name": "kestrel-store"})["id"]
    batches = "/v1/vector_stores/{vector_store_id}/file_batches"
    ids["batch_id"] = made(own, batches, json={"file_ids": [ids["file_id"]]})["id"]
    ids["run"] = made(own, "/api/v1/runs", json={"template": "digest", "inputs": {"files": [ids["file_id"]]}})["id"]
    kill = {"subject": "KEY", "name": ids["other_key"], "reason": "kestrel-reason"}
    ids["kill"] = made(own, "/api/v1/kills", json=kill)["id"]
    ids["index"] = str(made(own, "/api/v1/audit/records", "GET")["records"][-1]["index"])
    wait_until(lambda: '"in_progress":0' in own.get(victim.filled(f"{batches}/{{batch_id}}")).text, "the batch")
    ended = {"SUCCEEDED", "FAILED"}
    wait_until(lambda: own.get(victim.filled("/api/v1/runs/{run}")).json()["state"] in ended, "the run")
    yield victim
