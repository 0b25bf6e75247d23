"""The supervisor of a platform: the listen address that it checks and reports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drw.kernel.errors import Unavailable
from drw.local.paths import PlatformPaths
from drw.local.processes.supervisor import Supervisor


async def test_listen_address_of_the_operator_settings_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drw.local.weights.present", lambda folder: pytest.fail("something is started"))
    paths = PlatformPaths.of(tmp_path)
    paths.prepare()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        paths.settings.write_text(f'data_plane.listen = "{address}"')
        supervisor = Supervisor(paths, "127.0.0.1:0", print)
        with pytest.raises(Unavailable, match=f"{address} is not free"):
            await supervisor.run(print)
    assert (await supervisor._status())["gateway"] == f"http://{address}"
