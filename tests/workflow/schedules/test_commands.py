"""`drw schedules` against the workflow services."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drw.cli.api import Api
from drw.cli.workflow.schedules import schedules
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.credentials import Credentials
from workflow.doubles import serve_doubles
from workflow.harness import FAST_SETTINGS, SERVICES, sequence


async def test_a_schedule_from_preview_to_deletion(
    profile: Profile, folder: Path, caller: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"x-drw-org": caller.org, "x-drw-desk": caller.desk, "x-drw-key": caller.key}
    async with serve_doubles(profile, folder / f"d{next(sequence)}") as doubles:
        host = Host(doubles.profile.model_copy(update={"services": FAST_SETTINGS}), "test", SERVICES)
        _, address = await host.start(http_address="127.0.0.1:0")
        api = Api(Credentials(f"http://{address}", "none"))
        api._client.headers.update(identity | {"x-drw-scopes": " ".join(caller.scopes)})
        monkeypatch.setattr(Api, "of", lambda _: api)
        monkeypatch.setattr(Api, "upload", lambda *_, **__: {"id": "file-0"})
        file = tmp_path / "rates.txt"
        file.write_text("Rates rose.")

        async def drw(*args: str) -> str:
            result = await asyncio.to_thread(CliRunner().invoke, schedules, args)
            assert result.exit_code == 0, result.output + repr(result.exception)
            return result.output

        try:
            assert "NEXT (America/New_York)" in await drw("preview", "--market", "XNYS close + 15 min")
            created = await drw(
                *("create", "weekly", "--template", "digest", "--cron", "30 7 * * MON"),
                *("--time-zone", "America/Chicago", "--input", f"files={file}", "--overlap", "queue-one"),
            )
            assert created.splitlines()[0].startswith("NEXT (America/Chicago)")
            assert len(created.split("\n\n")[0].splitlines()) == 11 and "sch_" in created
            assert "30 7 * * MON America/Chicago" in await drw("list")
            assert "weekly is paused" in await drw("pause", "weekly")
            assert "weekly is active" in await drw("resume", "weekly")
            assert "1 occurrences" in await drw("backfill", "weekly", "--from", "2026-11-02", "--to", "2026-11-03")
            assert "BACK-FILL" in await drw("show", "weekly")
            assert "weekly is deleted" in await drw("delete", "weekly")
            assert "no schedules" in await drw("list")
        finally:
            api._client.close()
            await host.stop(grace=0)
