"""`drw runs` against the workflow services: pause, resume, fork, retry, signal, query and payload."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drw.cli.api import Api
from drw.cli.workflow.workflows import runs, workflows
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.credentials import Credentials
from workflow.control.controls import FUNCTIONS
from workflow.doubles import serve_doubles, until
from workflow.harness import FAST_SETTINGS, SERVICES, sequence

ORDERS = """
name: orders
description: Waits for a signal.
inputs:
  size: {type: INTEGER, default: 3}
nodes:
  - {id: make, uses: python, with: {function: text, arguments: {size: "${inputs.size}"}}}
  - {id: hold, uses: wait, needs: [make], with: {signal: fill}}
output: {price: "${steps.hold.output.payload.price}", text: "${steps.make.output.text}"}
"""


async def test_a_run_is_controlled_by_commands(
    profile: Profile, folder: Path, caller: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"x-drw-org": caller.org, "x-drw-desk": caller.desk, "x-drw-key": caller.key}
    async with serve_doubles(profile, folder / f"d{next(sequence)}") as doubles:
        services = FAST_SETTINGS | {"orchestration": {"functions": FUNCTIONS}}
        host = Host(doubles.profile.model_copy(update={"services": services}), "test", SERVICES)
        _, address = await host.start(http_address="127.0.0.1:0")
        api = Api(Credentials(f"http://{address}", "none"))
        api._client.headers.update(identity | {"x-drw-scopes": " ".join(caller.scopes)})
        monkeypatch.setattr(Api, "of", lambda _: api)

        async def drw(*args: str, app: object = runs) -> str:
            result = await asyncio.to_thread(CliRunner().invoke, app, args)  # type: ignore[arg-type]
            assert result.exit_code == 0, result.output + repr(result.exception)
            return result.output

        async def state(run: str) -> str:
            return str(json.loads(await drw("show", run, "--json"))["state"])

        async def wait_for(run: str, expected: str) -> None:
            async def has_state() -> bool:
                return await state(run) == expected

            await until(has_state, f"{expected} of {run}")

        try:
            await asyncio.to_thread(api.put, "/api/v1/templates/orders", {"source": ORDERS})
            run = (await drw("run", "orders", "--priority", "high", app=workflows)).split()[0]
            assert f"{run} is paused" in await drw("pause", run, "--reason", "a drill")
            assert run in await drw("list", "--state", "paused")
            assert "is stored for" in await drw("signal", run, "fill", "--payload", '{"price": 7}', "--id", "a")
            assert "the signal fill a is pending" in await drw("query", run)
            assert await drw("resume", run) in (f"{run} is running\n", f"{run} is queued\n")
            await wait_for(run, "SUCCEEDED")
            shown = await drw("query", run)
            assert '"price": 7' in shown and "hold  1 succeeded" in shown
            fork = (await drw("fork", run, "--input", "size=100000")).split()[0]
            await until_waiting(drw, fork)
            assert f"from {run}" in await drw("show", fork) and f"continued by {fork}" in await drw("show", run)
            await drw("cancel", fork)
            retry = (await drw("retry", fork)).split()[0]
            await until_waiting(drw, retry)
            assert "too large to show: make" in await drw("query", retry)
            await drw("signal", retry, "fill", "--payload", '{"price": 8}')
            await wait_for(retry, "SUCCEEDED")
            sha256 = json.loads(await drw("show", retry, "--json"))["output_payload"]["sha256"]
            assert f"payload {sha256}" in await drw("show", retry)
            await drw("payload", retry, sha256, "--out", str(tmp_path / "output.json"))
            assert json.loads((tmp_path / "output.json").read_text()) == {"price": 8, "text": "x" * 100_000}
        finally:
            api._client.close()
            await host.stop(grace=0)


async def until_waiting(drw: object, run: str) -> None:
    """Wait until the run waits for the signal."""

    async def is_waiting() -> bool:
        return "hold waits for signal fill until" in await drw("query", run)  # type: ignore[operator]

    await until(is_waiting, "the wait for the signal")
