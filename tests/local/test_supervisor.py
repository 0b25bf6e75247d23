"""The supervisor of a platform: the listen address that it checks and reports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drw.kernel.errors import Unavailable
from drw.local.credentials import Credentials, write
from drw.local.paths import PlatformPaths
from drw.local.processes.supervisor import Supervisor, remove_envoy_state


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


async def test_the_socket_of_an_earlier_start_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drw.local.weights.present", lambda folder: pytest.fail("something is started"))
    paths = PlatformPaths.of(tmp_path)
    paths.prepare()
    write(paths.credentials, "http://127.0.0.1:1", "secret")
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind(str(paths.operators_socket))
    assert Credentials.read(paths).socket
    with socket.create_server(("127.0.0.1", 0)) as taken:
        supervisor = Supervisor(paths, f"127.0.0.1:{taken.getsockname()[1]}", print)
        with pytest.raises(Unavailable, match="is not free"):
            await supervisor.run(print)
    assert Credentials.read(paths).socket == ""


def test_a_start_keeps_credentials_logs_and_the_position_in_the_usage_log(tmp_path: Path) -> None:
    for name in (
        "credentials/vllm",
        "usage.json",
        "usage.log",
        "usage.000001.log",
        "xds/routes.json",
        "bootstrap.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_envoy_state(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"credentials/vllm", "usage.json", "usage.log", "usage.000001.log"}
