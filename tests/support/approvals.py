"""A run that waits for approval, with a delegation, a link and a legal hold, created over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from support.json_types import Json, JsonObject
from support.parts import wait_until

TEMPLATE = """
name: {name}
description: Waits for an approval.
nodes: [{{id: sign, uses: approval, with: {{title: "{title}", deadline_seconds: 86400}}}}]
output: 1
"""


def create_approval(
    client: httpx.Client, identity: Mapping[str, str], approver: str, delegate: str, name: str, title: str
) -> dict[str, str]:
    """Return the ids of the run, of a delegation to `delegate`, of a link for `approver`, and of a hold on the run."""

    def call(verb: str, path: str, body: Json = None, key: str = "") -> JsonObject:
        headers = {**identity, **({"x-drw-key": key} if key else {})}
        answer = client.request(verb, path, json=body, headers=headers)
        assert answer.status_code == 200, f"{verb} {path}: {answer.text}"
        return answer.json()

    call("PUT", f"/api/v1/templates/{name}", {"source": TEMPLATE.format(name=name, title=title)})
    run = call("POST", "/api/v1/runs", {"template": name})["id"]
    wait_until(lambda: run in str(call("GET", "/api/v1/approvals")), "the approval")
    delegation = call("POST", "/api/v1/delegations", {"delegate": delegate}, key=approver)["id"]
    link = call("POST", "/api/v1/approvalLinks", {"run": run, "step": "sign", "approver": approver})["path"]
    hold = call("POST", "/api/v1/holds", {"kind": "RUN", "name": run, "reason": title})["id"]
    return {"waiting_run": run, "delegation": delegation, "token": link.rpartition("/")[2], "hold": hold}
