"""Forms: values that an approval carries. Links: signed, used once, expiring, and only with the key of the approver."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.kernel.v1.kernel_pb2 import Json as JsonMessage
from drw.api.workflow.v1.approvals_pb2 import (
    Approval,
    ApprovalLink,
    CreateApprovalLinkRequest,
    DecideApprovalRequest,
    OpenApprovalLinkRequest,
    UseApprovalLinkRequest,
    Vote,
)
from drw.api.workflow.v1.orchestration_pb2 import FAILED, Run
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited, TooLarge
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from drw.workflow.orchestration.approvals import links
from drw.workflow.templates import parser
from workflow.approvals.persons import World, approval_world
from workflow.approvals.test_persons import SIGN

FORM = """
name: sign
description: Asks for a limit.
nodes:
  - id: ok
    uses: approval
    with:
      title: "New limit"
      quorum: 2
      form:
        type: object
        properties:
          limit: {type: integer, maximum: 1000}
          desk: {type: string, pattern: "^(a+)+$"}
        required: [limit]
        additionalProperties: false
output: ${steps.ok.output.values.limit * 2}
"""


@pytest.fixture
async def world(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[World]:
    async with approval_world(profile, folder, caller) as world:
        yield world


async def test_the_values_of_the_form_are_the_output(world: World) -> None:
    run = await world.waiting(FORM)
    ann, bob = await world.person(), await world.person()
    for wrong, rule in (
        ({"limit": 1001}, "values.limit breaks the rule 'properties/limit/maximum'"),
        ({"limit": 5.5}, "values.limit breaks the rule"),
        ({}, "values breaks the rule 'required'"),
        ([], "values breaks the rule 'type'"),
        ({"limit": 5, "other": 1}, "additionalProperties"),
        ({"limit": 5, "desk": "a" * 5000 + "b"}, "values.desk breaks the rule"),  # exponential with backtracking
    ):
        with pytest.raises(InvalidRequest, match=rule):
            await world.decide(run, ann, values=wrong)
    with pytest.raises(InvalidRequest, match="a rejection has no values"):
        await world.decide(run, ann, Vote.REJECT, values={"limit": 5})
    first = await world.decide(run, ann, values={"limit": 5})
    assert (first.state, json_value(first.values)) == (Approval.PENDING, {"limit": 5})
    with pytest.raises(Conflict, match="an earlier approval has other values"):
        await world.decide(run, bob, values={"limit": 6})
    assert (await world.decide(run, bob)).state == Approval.APPROVED  # it confirms the values
    assert json_value((await world.harness.wait_until_ended(run)).output) == 10
    assert all(len(record["details"]["values"]) == 64 for record in world.harness.audit("approval.vote"))


async def test_large_and_deep_values_are_refused(world: World) -> None:
    run = await world.waiting(FORM)
    ann = await world.person()
    deep = '{"limit": ' + "[" * 5000 + "]" * 5000 + "}"
    for text, refusal in (('"' + "x" * 20_000 + '"', TooLarge), (deep, InvalidRequest), ("{", InvalidRequest)):
        request = DecideApprovalRequest(run=run.id, step="ok", decision=Vote.APPROVE, values=JsonMessage(text=text))
        with acting_for(ann), pytest.raises(refusal):
            await world.client.decide_approval(request)
    plain = await world.waiting(SIGN)
    with pytest.raises(InvalidRequest, match="'ok' has no form"):
        await world.decide(plain, ann, values={"limit": 5})


async def test_a_form_must_be_a_schema_of_its_own(world: World) -> None:
    for old, new, problem in (
        ("maximum: 1000", "maximum: high", "form: not a JSON Schema"),
        ("type: object\n", "type: array\n", "form: it must have 'type: object'"),
        ("{type: integer, maximum: 1000}", '{$ref: "https://evil.example/x"}', "to a part of the same schema"),
    ):
        problems = parser.validate(FORM.replace(old, new).encode(), "sign")
        assert [problem in str(p) for p in problems] == [True], problems
    approvers = SIGN.replace("quorum: 2", 'approvers: ["risk", "scope:limits:wrte", "desk:risk"]')
    messages = [p.message for p in parser.validate(approvers.encode(), "sign")]
    assert messages[0].startswith("'risk' is not an approver") and "did you mean 'limits:write'" in messages[1]
    assert len(messages) == 2
    world.harness.caller = world.starter
    dynamic = FORM.replace("maximum: 1000", 'maximum: "${run.id}"')  # only known when it runs
    await world.harness.put(dynamic)
    ended = await world.harness.wait_until_ended(await world.harness.start(0, template="sign"))
    assert ended.state == FAILED and "the form is not a JSON Schema" in ended.error


async def link_for(world: World, run: Run, approver: str, by: Principal | None = None) -> ApprovalLink:
    with acting_for(by or world.starter):
        return await world.client.create_approval_link(
            CreateApprovalLinkRequest(run=run.id, step="ok", approver=approver)
        )


async def use(world: World, token: str, person: Principal) -> Approval:
    with acting_for(person):
        return await world.client.use_approval_link(UseApprovalLinkRequest(token=token, decision=Vote.APPROVE))


def token_of(link: ApprovalLink) -> str:
    return link.path.removeprefix(links.PATH)


async def test_a_link_works_once_and_only_with_the_key_of_its_approver(world: World) -> None:
    run = await world.waiting(SIGN)
    ann, bob = await world.person(), await world.person()
    token = token_of(await link_for(world, run, ann.key))
    for other in (bob, world.starter, replace(ann, org="other"), replace(ann, desk="risk")):
        with pytest.raises(NotFound, match="not valid, or it is for another approver"):
            await use(world, token, other)
    with acting_for(ann):
        opened = await world.client.open_approval_link(OpenApprovalLinkRequest(token=token))
    assert (opened.run, opened.title) == (run.id, "Release memo")
    assert (await use(world, token, ann)).votes[0].key == ann.key
    with pytest.raises(Conflict, match="the link was used"):
        await use(world, token, ann)
    own = token_of(await link_for(world, run, world.starter.key))
    with pytest.raises(Forbidden, match="started the run"):  # a link gives no right
        await use(world, own, world.starter)
    second_key = await world.person(by=ann)
    with pytest.raises(Forbidden, match="same person"):
        await use(world, token_of(await link_for(world, run, second_key.key)), second_key)
    assert {record["outcome"] for record in world.harness.audit("approval.link_refused")} == {"denied"}
    (record,) = world.harness.audit("approval.vote")
    assert len(record["details"]["link"]) == 32 and token not in str(world.harness.audit("approval.link"))


async def test_forged_and_expired_links_are_refused(world: World) -> None:
    run = await world.waiting(SIGN)
    ann = await world.person()
    token = token_of(await link_for(world, run, ann.key))
    data = bytearray(base64.urlsafe_b64decode(token + "=="))
    for position in (0, 20, len(data) - 1):
        forged = bytes(byte ^ (position == number) for number, byte in enumerate(data))
        with pytest.raises(NotFound):
            await use(world, base64.urlsafe_b64encode(forged).decode().rstrip("="), ann)
    for text in ("x", token[:-2], token * 2, "é" * 20, "=" * 7):
        with pytest.raises(NotFound):
            await use(world, text, ann)
    with psycopg.connect(world.harness.profile.postgres) as connection:
        connection.execute("update orchestration.approval_link set expires_at = now()")
    with pytest.raises(Conflict, match="the link has expired"):
        await use(world, token, ann)
    assert not world.harness.audit("approval.vote")


async def test_links_are_made_by_those_who_see_the_approval_and_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_LINKS", 2)
    run = await world.waiting(SIGN)
    ann = await world.person()
    for stranger in (replace(ann, org="other"), replace(ann, desk="risk")):
        with pytest.raises(NotFound, match="there is no run"):
            await link_for(world, run, ann.key, stranger)
    for _ in range(2):
        await link_for(world, run, ann.key)
    with pytest.raises(RateLimited, match="has 2 links"):
        await link_for(world, run, ann.key)
