"""`drw runs approve|reject|delegate|link`, `drw holds` and `drw templates` against the workflow services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from drw.api.gateway.v1.authentication_pb2 import PutCertificateRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.cli.api import Api
from drw.cli.main import make_app
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.credentials import Credentials
from drw.local.first_key import OPERATOR
from support.hosting import make_desks, with_secret
from support.json_types import Json
from workflow.approvals.test_forms_and_links import FORM
from workflow.approvals.test_persons import SIGN
from workflow.doubles import serve_doubles, until
from workflow.harness import FAST_SETTINGS, WITH_PERSONS, sequence

ANN, BOB, STARTER = "oidc:corp:ann", "cert:bob", "oidc:corp:starter"


class CommandLine:
    """The command `drw` with the key of a person."""

    def __init__(self, api: Api, caller: Principal) -> None:
        self._api = api
        self._caller = caller

    async def run(self, *args: str, by: str = STARTER, exit_code: int = 0) -> str:
        """Return the output of a command."""
        caller = replace(self._caller, key=by)
        identity = {"org": caller.org, "desk": caller.desk, "key": caller.key, "scopes": " ".join(caller.scopes)}
        self._api._client.headers.update({f"x-drw-{name}": value for name, value in identity.items()})
        app: typer.Typer = make_app(args[0])
        result = await asyncio.to_thread(CliRunner().invoke, app, args)
        assert result.exit_code == exit_code, result.output + repr(result.exception)
        return result.output if exit_code == 0 else result.output + repr(result.exception)

    async def json(self, *args: str, by: str = STARTER) -> Json:
        return json.loads(await self.run(*args, "--json", by=by))


@pytest.fixture
async def drw(
    profile: Profile, folder: Path, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CommandLine]:
    async with serve_doubles(profile, folder / f"d{next(sequence)}") as doubles:
        services = FAST_SETTINGS | {"authentication": profile.services["authentication"]}
        host = Host(with_secret(doubles.profile.model_copy(update={"services": services})), "test", WITH_PERSONS)
        _, address = await host.start(http_address="127.0.0.1:0")
        await make_desks(host, WITH_PERSONS)
        with acting_for(OPERATOR):
            certificate = PutCertificateRequest(name="bob", san="spiffe://bob/x", org="acme", desk="research")
            certificate.scopes.append("workflows:approve")
            await host.client(AuthenticationClient).put_certificate(certificate)
        api = Api(Credentials(f"http://{address}", "none"))
        monkeypatch.setattr(Api, "of", lambda _: api)
        try:
            yield CommandLine(api, caller)
        finally:
            api._client.close()
            await host.stop(grace=0)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return tmp_path / "sign.yaml"


async def waiting_run(drw: CommandLine, template: Path, source: str) -> str:
    """Start a run from a template file; return its id when it waits."""
    template.write_text(source)
    await drw.run("templates", "put", str(template))
    run: str = (await drw.json("workflows", "run", "sign"))["id"]

    async def waits() -> bool:
        return run in await drw.run("runs", "approvals")

    await until(waits, "the approval")
    return run


async def test_a_template_from_put_to_delete(drw: CommandLine, template: Path) -> None:
    template.write_text(SIGN)
    first = (await drw.json("templates", "put", str(template)))["version"]
    assert await drw.run("templates", "put", str(template)) == f"sign  {first[:12]}\n"
    template.write_text(SIGN.replace("Release memo", "Other memo"))
    with_old = await drw.run("templates", "put", str(template), "--if-version", "0" * 64, exit_code=1)
    assert f"is {first}, not {'0' * 64}" in with_old
    await drw.run("templates", "put", str(template), "--if-version", first, by=ANN)
    changes = await drw.json("templates", "versions", "sign")
    assert [(change["version"] == first, change["changed_by"]) for change in changes] == [(False, ANN), (True, STARTER)]
    assert "VERSION" in await drw.run("templates", "versions", "sign")
    assert "no template 'sign' of its own" in await drw.run("templates", "delete", "sign")
    assert (await drw.run("templates", "versions", "sign")).splitlines()[1].startswith("deleted")
    template.write_text("name: sign\n")
    assert "the key 'nodes' is missing" in await drw.run("templates", "put", str(template), exit_code=1)
    assert "cannot be read" in await drw.run("templates", "put", str(template.parent / "none.yaml"), exit_code=1)


async def test_a_run_is_approved_with_values_by_two_persons(drw: CommandLine, template: Path) -> None:
    run = await waiting_run(drw, template, FORM)
    assert '"maximum": 1000' in await drw.run("runs", "approvals")
    assert "started the run" in await drw.run("runs", "approve", run, "ok", exit_code=1)
    wrong = await drw.run("runs", "approve", run, "ok", "--value", "limit=high", by=ANN, exit_code=1)
    assert "values.limit breaks the rule" in wrong
    approved = await drw.run("runs", "approve", run, "ok", "--value", "limit=5", "--comment", "fine", by=ANN)
    assert approved == f"ok of {run} is pending: 1 of 2 votes\n"
    assert 'the first approval has the values: {"limit": 5}' in await drw.run("runs", "approvals")
    response = await drw.json("runs", "approve", run, "ok", by="oidc:corp:carl")
    assert (response["state"], response["values"]) == ("APPROVED", {"limit": 5})
    assert "nothing waits for approval" in await drw.run("runs", "approvals")


async def test_a_run_is_rejected(drw: CommandLine, template: Path) -> None:
    run = await waiting_run(drw, template, SIGN)
    rejected = await drw.run("runs", "reject", run, "ok", "--comment", "too large", by=ANN)
    assert rejected == f"ok of {run} is rejected: 1 of 2 votes\n"

    async def failed() -> bool:
        return (await drw.json("runs", "show", run))["state"] == "FAILED"

    await until(failed, "the end")
    assert f"rejected by {ANN}: too large" in await drw.run("runs", "show", run)


async def test_a_decision_is_delegated_and_linked(drw: CommandLine, template: Path) -> None:
    run = await waiting_run(drw, template, SIGN)
    assert "decides for you until" in await drw.run("runs", "delegate", run, "ok", "--to", BOB, by=ANN)
    assert "decides for you until" in await drw.run("runs", "delegate", "all", "--to", BOB, by=ANN)
    ids = [delegation["id"] for delegation in await drw.json("runs", "delegations")]
    assert "all approvals" in await drw.run("runs", "delegations") and len(ids) == 2
    for id_ in ids:
        assert await drw.run("runs", "end-delegation", id_, by=ANN) == f"{id_} has ended\n"
    assert "no delegations" in await drw.run("runs", "delegations")
    assert 'or "all" without a step' in await drw.run("runs", "delegate", run, "--to", BOB, by=ANN, exit_code=1)
    link = (await drw.run("runs", "link", run, "ok", "--for", ANN)).splitlines()[0]
    assert httpx.URL(link).path.startswith("/api/v1/approvalLinks/")
    assert "for another approver" in await drw.run("runs", "approve", link, by="oidc:corp:carl", exit_code=1)
    assert "a link without a step" in await drw.run("runs", "approve", link, "ok", by=ANN, exit_code=1)
    assert f"ok of {run} is pending: 1 of 2 votes" in await drw.run("runs", "approve", link, by=ANN)
    assert "the link was used" in await drw.run("runs", "reject", link, by=ANN, exit_code=1)


async def test_holds_are_placed_listed_and_released(drw: CommandLine, template: Path) -> None:
    run = await waiting_run(drw, template, SIGN)
    hold = (await drw.run("holds", "place", "--run", run, "--reason", "matter 7")).strip()
    await drw.run("holds", "place", "--template", "sign", "--reason", "matter 7")
    await drw.run("holds", "place", "--desk", "--reason", "matter 8")
    assert "lacks the scope 'org:admin'" in await drw.run("holds", "place", "--org", "--reason", "x", exit_code=1)
    assert "choose one of" in await drw.run("holds", "place", "--reason", "x", exit_code=1)
    assert len(await drw.json("holds", "list")) == 3
    assert await drw.run("holds", "release", hold, "--reason", "settled") == f"{hold} is released\n"
    assert len(await drw.json("holds", "list")) == 2
    assert "released" in await drw.run("holds", "list", "--all")


async def test_a_form_of_ten_megabytes_is_refused(drw: CommandLine, template: Path) -> None:
    run = await waiting_run(drw, template, FORM)
    api = drw._api
    body = {"decision": "APPROVE", "values": {"limit": 5, "desk": "a" * 10_000_000}}
    answer = await asyncio.to_thread(
        api._client.post, f"/api/v1/runs/{run}/approvals/ok", json=body, headers={"x-drw-key": ANN}
    )
    assert answer.status_code == 413, answer.text[:200]
    small = {"decision": "APPROVE", "values": {"limit": 5, "desk": "a" * 100_000}}
    answer = await asyncio.to_thread(
        api._client.post, f"/api/v1/runs/{run}/approvals/ok", json=small, headers={"x-drw-key": ANN}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "values"), answer.text[:200]
