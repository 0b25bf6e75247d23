"""Signals and queries: a signal is received once, by one step, in the order of arrival."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, RUNNING, SUCCEEDED, Run
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited, TooLarge
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from drw.workflow.templates import parser
from workflow.control.controls import control_harness, controls, execute
from workflow.doubles import until
from workflow.harness import WorkflowHarness, step_is

FILL = """{signal: fill, deadline_seconds: "${inputs.seconds}",
      schema: {type: object, required: [price], properties: {price: {type: integer}}}}"""
FILLS = """
name: fills
description: Waits for two fills.
inputs:
  files: {type: FILES}
  seconds: {type: INTEGER, default: 600}
nodes:
  - {id: first, uses: ingest, with: {file: file-0, collection: orders}}
  - id: one
    uses: wait
    needs: [first]
    with: FILL
  - {id: two, uses: wait, needs: [one], with: FILL}
output: ["${steps.one.output.payload.price}", "${steps.two.output.payload.price}", "${steps.two.output.sent_by}"]
""".replace("FILL", FILL)
LATE = """
name: late
description: Continues without the signal.
nodes: [{id: hold, uses: wait, with: {signal: go, deadline_seconds: 1, if_late: continue}}]
output: ${steps.hold.output.received}
"""


GUIDE = Path(__file__).parents[3] / "docs/how-to/use/control-runs.md"


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with control_harness(profile, folder, caller, max_run_signals=3) as harness:
        await harness.put(FILLS)
        await harness.put(LATE)
        yield harness


async def waiting(harness: WorkflowHarness, step: str = "one") -> Run:
    run = await harness.start(0, template="fills")
    await until(lambda: step_is(harness, run, step, RUNNING), "the wait")
    return run


async def test_signals_are_received_in_order_by_one_step_each(harness: WorkflowHarness) -> None:
    run = await waiting(harness)
    other = replace(harness.caller, key="key_other")
    sent = await controls(harness).signal(run, "fill", "a", {"price": 2**53 + 1})
    assert (sent.name, sent.sent_by, sent.signal_id) == ("fill", "key_test", "a") and sent.received_at.seconds
    await controls(harness, other).signal(run, "fill", "b", {"price": 7})
    ended = await harness.wait_until_ended(run)
    assert json_value(ended.output) == [2**53 + 1, 7, "key_other"]
    assert {r["details"]["signal_id"] for r in harness.audit("run.signal")} == {"a", "b"}
    rows = execute(harness.profile, "select id, step from run_signal order by number")
    assert rows == [("a", "one"), ("b", "two")]


async def test_a_signal_before_the_wait_is_kept_for_it(harness: WorkflowHarness) -> None:
    release = harness.calls.block("index file-0")
    run = await harness.start(0, template="fills")
    await until(lambda: "index file-0" in harness.calls.names, "the first step")
    for number in range(2):
        signal = await controls(harness).signal(run, "fill", str(number), {"price": number})
        assert signal.delivered_to == ""
    pending = (await controls(harness).query(run)).pending_signals
    assert [(s.signal_id, json_value(s.payload)) for s in pending] == [("0", {"price": 0}), ("1", {"price": 1})]
    release.set()
    assert json_value((await harness.wait_until_ended(run)).output)[:2] == [0, 1]


async def test_the_same_signal_twice_is_one(harness: WorkflowHarness) -> None:
    run = await waiting(harness)
    sends = [controls(harness).signal(run, "fill", "a", {"price": 1}) for _ in range(5)]
    assert len({signal.received_at.ToNanoseconds() for signal in await asyncio.gather(*sends)}) == 1
    await until(lambda: step_is(harness, run, "two", RUNNING), "the second wait")
    with pytest.raises(Conflict, match="signal id 'a' was used for another signal"):
        await controls(harness).signal(run, "fill", "a", {"price": 2})
    await controls(harness).signal(run, "fill", "b", {"price": 2})
    ended = await harness.wait_until_ended(run)
    assert json_value(ended.output)[:2] == [1, 2]
    again = await controls(harness).signal(run, "fill", "b", {"price": 2})  # its sender has not heard the answer
    assert again.delivered_to == "two"
    with pytest.raises(Conflict, match="is succeeded: it receives no signals"):
        await controls(harness).signal(run, "fill", "c", {"price": 2})


async def test_wrong_signals_are_refused_and_not_stored(harness: WorkflowHarness) -> None:
    run = await waiting(harness)
    with pytest.raises(InvalidRequest, match="waits for the signal 'other'; there are: fill"):
        await controls(harness).signal(run, "other", "a")
    for payload in ({"price": "1"}, {}, None):
        with pytest.raises(InvalidRequest, match="does not match the schema of the signal 'fill'"):
            await controls(harness).signal(run, "fill", "a", payload)
    with pytest.raises(TooLarge, match="at most 65536"):
        await controls(harness).signal(run, "fill", "a", {"price": 1, "text": "x" * 70_000})
    for stranger in (replace(harness.caller, org="other"), replace(harness.caller, desk="other")):
        with pytest.raises(NotFound, match="there is no run"):
            await controls(harness, stranger).signal(run, "fill", "a", {"price": 1})
        with pytest.raises(NotFound, match="there is no run"):
            await controls(harness, stranger).query(run)
    assert execute(harness.profile, "select * from run_signal") == []
    assert await step_is(harness, run, "one", RUNNING)


async def test_the_signals_of_a_run_are_bounded(harness: WorkflowHarness) -> None:
    run = await waiting(harness)
    await controls(harness).pause(run)
    for number in range(3):
        await controls(harness).signal(run, "fill", str(number), {"price": number})
    with pytest.raises(RateLimited, match="has 3 signals, the maximum"):
        await controls(harness).signal(run, "fill", "3", {"price": 3})


async def test_a_passed_deadline_fails_the_step_or_continues(harness: WorkflowHarness) -> None:
    failed = await harness.wait_until_ended(await harness.start(0, template="fills", seconds=1))
    assert failed.state == FAILED and failed.error.startswith("the step 'one' failed: no signal 'fill' before ")
    late = await harness.wait_until_ended(await harness.start(0, template="late"))
    assert late.state == SUCCEEDED and json_value(late.output) is False


async def test_a_query_shows_nodes_values_and_what_the_run_waits_for(harness: WorkflowHarness) -> None:
    run = await waiting(harness)
    state = await controls(harness).query(run)
    assert state.state == RUNNING
    assert {node.node: dict(node.steps) for node in state.nodes} == {
        "first": {"SUCCEEDED": 1},
        "one": {"RUNNING": 1},
        "two": {"QUEUED": 1},
    }
    assert json_value(state.values)["first"]["collection"] == "orders"
    (wait,) = state.waiting_for
    assert (wait.step, wait.kind, wait.name) == ("one", "signal", "fill") and wait.deadline.seconds > 0
    await harness.cancel(run)


async def test_a_query_leaves_large_values_out(harness: WorkflowHarness) -> None:
    source = """
name: texts
description: Makes texts.
inputs: {sizes: {type: LIST}}
nodes:
  - {id: large, uses: python, with: {function: text, arguments: {size: 100000}}}
  - {id: small, uses: python, with: {function: text, arguments: {size: 3}}}
  - {id: many, uses: python, for_each: "${inputs.sizes}", with: {function: text, arguments: {size: "${item}"}}}
output: 1
"""
    await harness.put(source)
    run = await harness.wait_until_ended(await harness.start(0, template="texts", sizes=[1, 2]))
    state = await controls(harness).query(run)
    values = json_value(state.values)
    assert values["small"]["text"] == "xxx" and list(state.omitted) == ["large"]
    assert {index: value["text"] for index, value in values["many"].items()} == {"0": "x", "1": "xx"}
    many = await harness.wait_until_ended(await harness.start(0, template="texts", sizes=[60_000] * 6))
    assert "many" in (await controls(harness).query(many)).omitted


async def test_the_template_of_the_guide_receives_its_signal(harness: WorkflowHarness) -> None:
    (source,) = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    await harness.put(source)
    run = await harness.start(0, template="await_fill")
    await controls(harness).signal(run, "fill", "order-4711", {"price": 101.25})
    ended = await harness.wait_until_ended(run)
    assert json_value(ended.output) == {"filled": True, "fill": {"price": 101.25}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{signal: "${inputs.x}"}', "signal must be a name"),
        ("{signal: Go}", "signal must be a name"),
        ("{signal: go, seconds: 1}", "does not accept 'seconds'; use 'deadline_seconds'"),
        ("{seconds: 1, if_late: fail}", "accepts 'if_late' only with 'signal'"),
        ("{signal: go, schema: {type: 3}}", "not a JSON Schema"),
        ('{signal: go, schema: {const: "${1}"}}', "a JSON Schema without expressions"),
        ("{signal: go, schema: {type: object}}", "waits for the signal 'go' has another schema"),
    ],
)
def test_mistakes_of_signals_are_found_in_the_template(arguments: str, message: str) -> None:
    source = (
        "name: t\ndescription: x\ninputs: {x: {type: STRING}}\nnodes:\n"
        f"  - {{id: a, uses: wait, with: {{signal: go}}}}\n  - {{id: b, uses: wait, with: {arguments}}}\noutput: 1\n"
    )
    problems = parser.validate(source.encode(), "t.yaml")
    assert [problem for problem in problems if message in problem.message and problem.line == 6], problems
