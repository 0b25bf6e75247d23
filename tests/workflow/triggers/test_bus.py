"""Triggers on the event bus: the end of a run starts the next one, up to the maximum depth; and `drw triggers`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drw.api.workflow.v1.orchestration_pb2 import ListRunsRequest, Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.triggers_pb2 import CreateTriggerRequest, Firing, GetTriggerRequest, Trigger, TriggerSpec
from drw.cli.api import Api
from drw.cli.workflow.triggers import triggers
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message, json_value
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.credentials import Credentials
from workflow.doubles import serve_doubles, until
from workflow.harness import FAST_SETTINGS, SERVICES, sequence, workflow_harness

SETTINGS = FAST_SETTINGS | {"orchestration": FAST_SETTINGS["orchestration"] | {"max_event_depth": 2}}
ECHO = """
name: echo
description: Returns the run that ended.
inputs: {of: {type: STRING, default: "", description: The run.}}
nodes: [{id: a, uses: wait, with: {seconds: 0}}]
output: ${inputs.of}
"""


async def test_the_end_of_a_run_starts_the_next_one_up_to_the_maximum_depth(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    names = [*SERVICES, "events"]
    async with workflow_harness(profile, folder, caller, services=SETTINGS, names=names) as harness:
        client = harness.host.client(OrchestrationClient)
        await harness.put(ECHO)
        spec = TriggerSpec(event="run.ended", template="echo", filter="event.data.state == 'succeeded'")
        spec.inputs.CopyFrom(json_message({"of": "${event.data.run}"}))

        async def trigger() -> Trigger:
            with acting_for(caller):
                return await client.get_trigger(GetTriggerRequest(trigger="chain"))

        async def is_refused() -> bool:
            return any(f.outcome == Firing.REFUSED for f in (await trigger()).firings)

        with acting_for(caller):
            await client.create_trigger(CreateTriggerRequest(name="chain", spec=spec))
        first = await harness.start(0, template="echo")
        await until(is_refused, "the end of the chain")
        with acting_for(caller):
            listed: list[Run] = list((await client.list_runs(ListRunsRequest())).runs)
        third, second, oldest = listed  # newest first
        assert oldest.id == first.id and oldest.trigger == ""
        assert [json_value(run.inputs)["of"] for run in (second, third)] == [first.id, second.id]
        assert second.trigger == third.trigger == (await trigger()).id and second.event != third.event
        assert "2 runs led to the event" in (await trigger()).firings[0].detail


async def test_commands_from_creation_to_deletion(
    profile: Profile, folder: Path, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"x-drw-org": caller.org, "x-drw-desk": caller.desk, "x-drw-key": caller.key}
    async with serve_doubles(profile, folder / f"d{next(sequence)}") as doubles:
        host = Host(doubles.profile.model_copy(update={"services": FAST_SETTINGS}), "test", SERVICES)
        _, address = await host.start(http_address="127.0.0.1:0")
        api = Api(Credentials(f"http://{address}", "none"))
        api._client.headers.update(identity | {"x-drw-scopes": " ".join(caller.scopes)})
        monkeypatch.setattr(Api, "of", lambda _: api)

        async def drw(*args: str, code: int = 0) -> str:
            result = await asyncio.to_thread(CliRunner().invoke, triggers, args)
            assert (result.exit_code == 0) == (code == 0), result.output + repr(result.exception)
            return result.output

        try:
            created = await drw(
                *("create", "new", "--template", "digest", "--on", "document.indexed"),
                *("--filter", "!event.data.unchanged", "--input", "files=${event.data.file}"),
                *("--input", "title=New in ${event.data.collection}", "--max-per-minute", "5"),
            )
            assert created.startswith("trg_") and created.endswith("new\n")
            assert "document.indexed" in await drw("list")
            shown = await drw("show", "new")
            assert "!event.data.unchanged" in shown and "no events yet" in shown
            assert "new is paused" in await drw("pause", "new")
            assert "new is active" in await drw("resume", "new")
            assert "new is deleted" in await drw("delete", "new")
            assert "no triggers" in await drw("list")
            await drw("create", "x", "--template", "digest", code=2)
            await drw("create", "x", "--template", "digest", "--on", "run.ended", "--upload", "c", code=2)
        finally:
            api._client.close()
            await host.stop(grace=0)
