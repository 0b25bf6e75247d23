"""Processes that are killed (SIGKILL) during compensations, cancellations and HTTP calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import (
    AMBIGUOUS,
    CANCELLED,
    FAILED,
    SUCCEEDED,
    CancelRunRequest,
    Run,
    StartRunRequest,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from workflow.doubles import until
from workflow.nodes.http_server import HttpServer
from workflow.nodes.running import template
from workflow.test_crash import CrashHarness, Process, _crash_harness

WORKFLOW = """
[workflow]
http_hosts = ["{server}"]
events."order.undone" = {{}}
"""


@dataclass
class Kills:
    """One workflow process, and the server that it calls."""

    crash: CrashHarness
    process: Process
    server: HttpServer

    async def start(self, nodes: str) -> Run:
        with acting_for(self.crash.caller):
            client = self.crash.channels.client(TemplatesClient, self.process.address)
            await client.put_template(PutTemplateRequest(name="t", source=template(nodes)))
            request = StartRunRequest(template="t", request_id="r")
            return await self.crash.channels.client(OrchestrationClient, self.process.address).start_run(request)

    async def cancel(self, run: Run) -> None:
        with acting_for(self.crash.caller):
            client = self.crash.channels.client(OrchestrationClient, self.process.address)
            await client.cancel_run(CancelRunRequest(run=run.id))

    async def called(self, method: str, path: str, times: int = 1) -> None:
        await until(lambda: self.server.paths(method).count(path) >= times, f"{method} {path}")

    async def restart(self) -> None:
        """Kill the process and start it again."""
        self.process.kill()
        self.process.start()
        await until(self.process.is_leader, "leadership")

    def url(self, path: str) -> str:
        return f"{self.server.url}{path}"


@pytest.fixture
async def kills(profile: Profile, folder: Path, caller: Principal, server: HttpServer) -> AsyncIterator[Kills]:
    async with _crash_harness(profile, folder, caller) as crash:
        process = crash.new_process()
        process.profile.write_text(process.profile.read_text() + WORKFLOW.format(server=server.url))
        process.start()
        await until(process.is_leader, "leadership")
        yield Kills(crash, process, server)


def order(kills: Kills, name: str, needs: str, undo: str) -> str:
    with_ = f'{{url: "{kills.url(f"/orders/{name}")}", method: PUT}}'
    return f"  - {{id: {name}, uses: http, needs: [{needs}], with: {with_}, compensate: {undo}}}\n"


def delete(kills: Kills, path: str) -> str:
    return f'{{uses: http, with: {{url: "{kills.url(path)}", method: DELETE}}}}'


FAIL = "  - {id: fail, uses: python, needs: [b], with: {function: missing}}\n"


async def test_kills_in_mid_compensation_repeat_no_finished_step(kills: Kills) -> None:
    nodes = order(kills, "a", "", delete(kills, "/hold/a")) + order(kills, "b", "a", delete(kills, "/hold/b"))
    event = "{uses: event, with: {name: order.undone, data: {order: c}}}"
    run = await kills.start(nodes + order(kills, "c", "b", event) + FAIL.replace("[b]", "[c]"))
    for name in ("b", "a"):
        await kills.called("DELETE", f"/hold/{name}")
        await kills.restart()
        kills.server.gates[f"/hold/{name}"].set()
    ended = await kills.crash.wait_until_ended(kills.process, run)
    assert (ended.state, ended.error) == (FAILED, ended.undo_reason)
    assert kills.server.paths("PUT") == ["/orders/a", "/orders/b", "/orders/c"]
    assert list(dict.fromkeys(kills.server.paths("DELETE"))) == ["/hold/b", "/hold/a"]
    assert Counter(kills.server.paths("DELETE")) == {"/hold/a": 2, "/hold/b": 2}  # in flight at a kill
    ends = Counter(kills.crash.records("step.end"))
    assert ends == {f"{run.id}/{step}": 1 for step in ("a", "b", "c", "fail", "a~undo", "b~undo", "c~undo")}
    assert kills.crash.records("run.end") == [run.id]
    with psycopg.connect(kills.crash.profile.postgres) as connection:
        rows = connection.execute("select event from bus.outbox").fetchall()
    names = [orjson.loads(row[0])["data"].get("name") for row in rows]
    assert names.count("order.undone") == 1


async def test_a_compensation_that_cannot_be_repeated_is_ambiguous_after_a_kill(kills: Kills) -> None:
    post = delete(kills, "/hold/b").replace("DELETE", "POST")
    nodes = order(kills, "a", "", delete(kills, "/undo/a")) + order(kills, "b", "a", post)
    run = await kills.start(nodes + FAIL)
    await kills.called("POST", "/hold/b")
    await kills.restart()
    ended = await kills.crash.wait_until_ended(kills.process, run)
    classes = {step.id: step.failure_class for step in ended.steps}
    assert classes["b~undo"] == AMBIGUOUS and "the compensation of 'b' failed" in ended.error
    assert (kills.server.paths("POST"), kills.server.paths("DELETE")) == (["/hold/b"], ["/undo/a"])


async def test_a_kill_after_a_cancellation_still_undoes_the_steps(kills: Kills) -> None:
    hold = f'  - {{id: hold, uses: http, needs: [a], with: {{url: "{kills.url("/hold/c")}"}}}}\n'
    run = await kills.start(order(kills, "a", "", delete(kills, "/hold/a")) + hold)
    await kills.called("GET", "/hold/c")
    await kills.cancel(run)
    await kills.restart()
    kills.server.gates["/hold/a"].set()
    ended = await kills.crash.wait_until_ended(kills.process, run)
    assert (ended.state, ended.error) == (CANCELLED, "cancelled by key_test")
    assert {step.id: step.state for step in ended.steps}["a~undo"] == SUCCEEDED
    assert kills.server.paths("GET") == ["/hold/c"]  # not called again


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_post_is_repeated_after_a_kill_only_with_a_key_and_then_with_the_same(
    kills: Kills, with_key: bool
) -> None:
    key = 'idempotency_key: "${run.id}/${inputs.value}", ' if with_key else ""
    run = await kills.start(f'  - {{id: call, uses: http, {key}with: {{url: "{kills.url("/hold/1")}", method: POST}}}}')
    await kills.called("POST", "/hold/1")
    await kills.restart()
    kills.server.gates["/hold/1"].set()
    ended = await kills.crash.wait_until_ended(kills.process, run)
    (step,) = ended.steps
    if with_key:
        assert (ended.state, step.attempts) == (SUCCEEDED, 2)
        assert [r.headers["idempotency-key"] for r in kills.server.received] == [f"{run.id}/v"] * 2
    else:
        assert (ended.state, step.failure_class, len(kills.server.received)) == (FAILED, AMBIGUOUS, 1)
