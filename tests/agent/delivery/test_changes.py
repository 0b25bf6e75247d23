"""Configuration changes, invalid configurations, control plane outages and access logs of a data plane."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from agent.data_plane import DataPlaneHarness, running, unwritable
from agent.doubles import DoubleCollector
from drw.agent import agent
from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery import envoy
from drw.agent.reporting.log_rotation import BACKUPS, MAX_BYTES, AccessLog
from drw.api.gateway.v1.load_balancer_pb2 import Upstream as UpstreamRecord
from drw.gateway.authentication.keys.signing import Signer, jwks, new_private_key
from drw.gateway.load_balancer.settings import UpstreamSettings as Upstream
from drw.gateway.request_router.routes.table import RouteSettings
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.runtime.settings import Profile
from support.json_types import JsonObject
from support.parts import running as running_process
from support.parts import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

SPARE = RouteSettings(name="spare", path="/v1/spare", methods=("GET",), scopes=("models:read",), upstream="models")


def configuration_change(number: int, data_plane: DataPlaneHarness) -> JsonObject:
    """Return the arguments of change `number`: in turn a route, a limit, a revoked key, an upstream."""
    extra = Upstream(addresses=(data_plane.profile.processes["models"].http,))
    to_extra = SPARE.model_copy(update={"upstream": "extra", "path": f"/v1/extra{number}"})
    turns: list[JsonObject] = [
        {"static_routes": (SPARE.model_copy(update={"path": f"/v1/spare{number}"}),)},
        {"key_limits": {f"key_{number}": number + 1}},
        {"revoked": [f"key_{number}"]},
        {"static_upstreams": {"extra": extra}, "static_routes": (to_extra,)},
    ]
    return turns[number % 4]


async def test_configuration_changes_under_load_fail_no_request(data_plane: DataPlaneHarness) -> None:
    secret, done, statuses = data_plane.sign("key_busy", "models:read"), asyncio.Event(), []

    async def send_requests() -> None:
        async with data_plane.client(secret) as client:
            while not done.is_set():
                statuses.append((await client.get("/v1/models")).status_code)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(send_requests())
        for number in range(32):
            report = await data_plane.apply(**configuration_change(number, data_plane))
            assert report.error == ""
        done.set()
    assert set(statuses) == {200}
    assert len(statuses) > 32
    assert all(count == 0 for count in (await data_plane.admin().rejections()).values())


async def test_route_change_keeps_rate_limit_counters(data_plane: DataPlaneHarness) -> None:
    limits = {"key_slow": 2}
    await data_plane.apply(key_limits=limits)
    async with data_plane.client(data_plane.sign("key_slow", "models:read")) as client:
        assert [(await client.get("/v1/models")).status_code for _ in range(3)] == [200, 200, 429]
        assert (await data_plane.apply(key_limits=limits, static_routes=(SPARE,))).error == ""
        assert (await data_plane.apply(key_limits=limits, static_routes=(SPARE,), revoked=["key_other"])).error == ""
        assert (await client.get("/v1/spare")).status_code == 429


async def test_invalid_configuration_is_rejected_and_the_previous_one_stays_active(
    data_plane: DataPlaneHarness,
) -> None:
    files = {f: f.read_bytes() for f in (data_plane.plane.folder / "xds").rglob("*.json")}
    invalid = data_plane.configuration()
    invalid.routes.routes.add(name="lost", path="/v1/lost", upstream="nowhere")
    invalid.version = "wrong"
    report = await data_plane.router.apply(invalid)
    assert "the route 'lost' names the upstream 'nowhere'" in report.error
    invalid = data_plane.configuration()
    invalid.credentials.jwks = "no keys"
    invalid.version = "wrong again"
    assert "jwks" in (await data_plane.router.apply(invalid)).error
    assert {f: f.read_bytes() for f in files} == files
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await data_plane.apply(static_routes=(SPARE,))).error == ""
        assert (await client.get("/v1/spare")).status_code == 200


async def test_valid_keys_beside_an_invalid_route_are_retried_until_applied(
    data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated, validate = [], envoy.validate

    async def fail_the_first_validation(configuration: JsonObject) -> None:
        validated.append(configuration)
        if len(validated) == 1:
            raise Unavailable("Envoy did not check the configuration")
        await validate(configuration)

    monkeypatch.setattr(envoy, "validate", fail_the_first_validation)
    invalid, newer = data_plane.configuration(), Signer(new_private_key(), "drw", "drw-gateway")
    invalid.credentials.jwks, invalid.version = jwks([data_plane.signing, newer]), "wrong"
    invalid.routes.routes.add(name="lost", path="/v1/lost", upstream="nowhere")
    report = asyncio.create_task(data_plane.router.apply(invalid))

    async def key_is_written() -> bool:
        return newer.kid in (data_plane.plane.folder / "xds" / "keys" / "keys.json").read_text()

    await until(key_is_written, "the signing key")
    await report
    assert len(validated) == 2


async def test_agent_continues_when_a_credential_cannot_be_written(data_plane: DataPlaneHarness) -> None:
    upstream = UpstreamRecord(name="theirs", addresses=["127.0.0.1:9"], credential="extra")
    with unwritable(data_plane, "xds/secrets/extra/secret.json"):
        assert "cannot be written" in (await data_plane.apply(upstreams=[upstream])).error
    assert (await data_plane.apply(upstreams=[upstream], static_routes=(SPARE,))).error == ""


async def test_last_valid_configuration_is_saved_once_its_file_is_writable(data_plane: DataPlaneHarness) -> None:
    file = data_plane.plane.folder / "good" / "configuration.binpb"
    with unwritable(data_plane, "good/configuration.binpb"):
        assert "cannot be written" in (await data_plane.apply(static_routes=(SPARE,))).error

    async def is_saved() -> bool:
        return b"/v1/spare" in file.read_bytes()

    await until(is_saved, "the last valid configuration")


async def test_agent_continues_when_the_access_log_cannot_be_rotated(
    data_plane_profile: Profile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent, "CHECK_SECONDS", 0.02)
    folder = envoy.data_plane_settings(data_plane_profile).folder
    (folder / f"access.{BACKUPS}.log").mkdir(parents=True)  # no file can replace a directory
    for number, size in ((f".{BACKUPS - 1}", 0), ("", MAX_BYTES)):
        (folder / f"access{number}.log").touch()
        os.truncate(folder / f"access{number}.log", size)
    async with running(DataPlaneHarness(data_plane_profile)) as data_plane:

        async def is_warned() -> bool:
            return "cannot rotate the access log" in caplog.text

        await until(is_warned, "the warning")
        assert (await data_plane.apply(static_routes=(SPARE,))).error == ""


async def test_envoy_starts_without_the_control_plane(data_plane: DataPlaneHarness) -> None:
    await data_plane.apply(static_routes=(SPARE,), revoked=["key_gone"])
    await data_plane.stop_agent()
    await data_plane.stop_gateway()
    await data_plane.stop_envoy()
    await data_plane.start_envoy()
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/spare")).status_code == 200
    async with data_plane.client(data_plane.sign("key_gone", "models:read")) as client:
        assert (await client.get("/v1/spare")).status_code == 401
    data_plane.start_agent()  # it cannot reach the router and changes nothing
    await until(data_plane.envoy_admin_responds, "Envoy")
    await data_plane.start_gateway()
    assert (await data_plane.apply()).error == ""
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/spare")).status_code == 404


async def test_rejection_by_the_running_envoy_is_reported(data_plane_profile: Profile) -> None:
    data_plane = DataPlaneHarness(data_plane_profile)
    host, _, port = envoy.data_plane_settings(data_plane_profile).listen.partition(":")
    with socket.socket() as occupant:
        occupant.bind((host, int(port)))
        occupant.listen()
        try:
            await data_plane.start_gateway()
            data_plane.start_agent()
            report = asyncio.create_task(data_plane.apply())

            async def bootstrap_is_written() -> bool:
                return envoy.ready_file(data_plane_profile).exists()

            await until(bootstrap_is_written, "the bootstrap of Envoy")
            data_plane.launch_envoy()
            assert (await report).error == "Envoy refuses the listeners of the configuration"
        finally:
            await data_plane.stop()


async def test_traces_are_exported_to_the_configured_endpoint(data_plane_profile: Profile) -> None:
    collector = DoubleCollector()
    server = HttpServer(collector.app)
    address = await server.start("127.0.0.1:0")
    data_plane = DataPlaneHarness(data_plane_profile.model_copy(update={"otlp_endpoint": f"http://{address}"}))
    try:
        await data_plane.start()
        async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
            answers = [await client.get("/v1/models", headers={"traceparent": PARENT}) for _ in range(5)]

        async def trace_is_received() -> bool:
            return bytes.fromhex(TRACE) in collector.received

        await until(trace_is_received, "the spans")
    finally:
        await data_plane.stop()
        await server.stop(0)
    assert b"drw-gateway" in collector.received
    traceparent = answers[0].json()["headers"]["traceparent"]
    assert traceparent.split("-")[1] == TRACE
    assert traceparent != PARENT  # the span of the data plane is now the parent


async def test_idle_timeout_of_a_route_is_a_504(data_plane: DataPlaneHarness) -> None:
    never = RouteSettings(name="never", path="/v1/never", upstream="models", idle_seconds=1)
    await data_plane.apply(static_routes=(never,))
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        answer = await client.get("/v1/never")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_first_byte_timeout_names_the_platform_process(data_plane: DataPlaneHarness) -> None:
    never = RouteSettings(name="never", path="/v1/never", upstream="models", first_byte_ms=100)
    await data_plane.apply(static_routes=(never,))
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        answer = await client.get("/v1/never")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.headers["retry-after"]) == (503, "service_unavailable", "5")
    assert error["message"].startswith("the models services")
    assert all(route.first_byte_ms for route in data_plane.configuration().routes.routes)


async def test_request_that_reached_the_upstream_is_not_retried(data_plane: DataPlaneHarness) -> None:
    received = []

    async def close_after_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    path = data_plane.profile.processes["workflow"].http.removeprefix("unix:")
    async with (
        await asyncio.start_unix_server(close_after_headers, path),
        data_plane.client(data_plane.sign("key_1", "workflows:run")) as client,
    ):
        answer = await client.post("/api/v1/runs", json={})
    assert (answer.status_code, len(received)) == (503, 1)
    assert answer.json()["error"]["message"].startswith("the workflow services")


async def test_full_access_log_is_rotated(data_plane: DataPlaneHarness) -> None:
    file = data_plane.plane.folder / "access.log"
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:

        async def send_and_wait_for_line(user_agent: str) -> None:
            answer = await client.get("/v1/models", headers={"user-agent": user_agent})
            request_id = answer.headers["x-request-id"]

            async def line_is_logged() -> bool:
                return file.exists() and request_id in file.read_text()

            await until(line_is_logged, "the line of the log")

        for _ in range(BACKUPS + 2):
            await send_and_wait_for_line("x")
            await AccessLog(file, data_plane.admin(), max_bytes=10).rotate()
        await send_and_wait_for_line("x")
        await AccessLog(file, data_plane.admin(), max_bytes=1 << 20).rotate()
    assert sorted(rotated.name for rotated in file.parent.glob("access.*")) == [
        *(f"access.{number}.log" for number in range(1, BACKUPS + 1)),
        "access.log",
    ]
    assert all(len(rotated.read_text().splitlines()) == 1 for rotated in file.parent.glob("access.*"))


async def test_anonymous_requests_have_a_separate_access_log(data_plane: DataPlaneHarness) -> None:
    """Anonymous requests must not rotate away the log lines of authenticated ones."""
    folder = data_plane.plane.folder
    await data_plane.apply(revoked=["key_bad"])
    async with data_plane.client() as anonymous, data_plane.client(data_plane.sign("key_1", "models:read")) as caller:
        authenticated = await caller.get("/v1/models")
        authenticated_errors = [await caller.get("/v1/" + "a" * 50_000), await caller.get("/v1/files")]
        unauthenticated = [
            await anonymous.get("/v1/models"),
            await anonymous.get("/healthz"),
            await anonymous.get("/" + "a" * 50_000),
            await anonymous.get("/v1/models", headers={"authorization": "Bearer a.b.c"}),
            await anonymous.get(
                "/v1/models", headers={"authorization": f"Bearer {data_plane.sign('key_bad', 'models:read')}"}
            ),
            await anonymous.get("/v1/models", headers={"x-drw-key": "key_1"}),
        ]
    lines_of = {}
    for name, answers in (
        ("access.log", [authenticated, *authenticated_errors]),
        ("access-anonymous.log", unauthenticated),
    ):
        ids = [answer.headers["x-request-id"] for answer in answers]

        async def lines_are_logged(name: str = name, ids: list[str] = ids) -> bool:
            return (folder / name).exists() and all(request_id in (folder / name).read_text() for request_id in ids)

        await until(lines_are_logged, f"the lines of {name}")
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        lines_of[name] = {line["request_id"]: line for line in lines}
    for answer in unauthenticated:
        assert answer.headers["x-request-id"] not in lines_of["access.log"]
    assert lines_of["access.log"][authenticated.headers["x-request-id"]]["key"] == "key_1"
    for name, answer in (("access.log", authenticated_errors[0]), ("access-anonymous.log", unauthenticated[2])):
        line = lines_of[name][answer.headers["x-request-id"]]
        assert (len(line["path"]), int(line["path_length"])) == (512, len(answer.url.path))


async def test_client_input_cannot_break_a_log_line_or_leak_a_key(data_plane: DataPlaneHarness) -> None:
    file = data_plane.plane.folder / "access.log"
    secret = data_plane.sign("key_1", "models:read")
    injected = '/v1/a","key":"key_2'
    host, _, port = data_plane.plane.listen.rpartition(":")
    for path in (injected, f"/v1/{secret}"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] == b"404"
        writer.close()

    async def lines_are_logged() -> bool:
        return file.exists() and len(file.read_text().splitlines()) == 2

    await until(lines_are_logged, "the lines of the log")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(line["key"], line["path"]) for line in lines} == {
        ("key_1", injected.replace('"', "%22")),
        ("key_1", "(a key)"),
    }


async def test_log_rotated_while_envoy_is_unreachable_is_reopened_later(data_plane: DataPlaneHarness) -> None:
    file = data_plane.plane.folder / "access.log"

    async def send_request() -> str:
        async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
            return str((await client.get("/v1/models")).headers["x-request-id"])

    request_id = await send_request()

    async def line_is_logged() -> bool:
        return file.exists() and request_id in file.read_text()

    await until(line_is_logged, "the line of the log")
    with pytest.raises(Unavailable):
        await AccessLog(file, EnvoyAdmin("unix:/nowhere"), max_bytes=10).rotate()
    await AccessLog(file, data_plane.admin(), max_bytes=1 << 20).rotate()
    request_id = await send_request()
    await until(line_is_logged, "the line of the new log")


async def test_active_stream_completes_during_a_graceful_stop(data_plane: DataPlaneHarness) -> None:
    async def stop() -> None:
        await data_plane.admin().drain(30)
        await data_plane.stop_envoy()

    async with (
        data_plane.client(data_plane.sign("key_1", "models:invoke")) as client,
        client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer,
    ):
        stopping = asyncio.create_task(stop())
        for _ in range(5):
            assert await data_plane.envoy_admin_responds()  # it had time to stop and did not
        lines = answer.aiter_lines()
        for number in range(5):
            data_plane.models.next_event.release()
            assert await anext(lines) == f"data: {number}"
            assert await anext(lines) == ""
        assert [line async for line in lines] == []
    await stopping


async def test_agent_runs_as_a_separate_process(data_plane_profile: Profile, tmp_path: Path) -> None:
    data_plane, file, log = DataPlaneHarness(data_plane_profile), tmp_path / "profile.toml", tmp_path / "agent.log"
    file.write_text(as_toml(data_plane_profile))
    await data_plane.start_gateway()
    with running_process([sys.executable, "-m", "drw.agent", str(file)], log) as agent:
        try:
            report = asyncio.create_task(data_plane.apply())
            await data_plane.start_envoy()
            assert (await report).error == "", log.read_text()
            agent.terminate()
            assert await asyncio.to_thread(agent.wait, 30) == 0
        finally:
            print(log.read_text())  # pytest shows this when the test fails
            await data_plane.stop()
    assert f"version {data_plane.configuration().version}: runs" in log.read_text()


async def test_agent_without_data_plane_settings_exits_with_an_error(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "profile.toml"
    file.write_text(as_toml(profile))
    agent = await asyncio.create_subprocess_exec(sys.executable, "-m", "drw.agent", str(file), stderr=PIPE)
    _, error = await agent.communicate()
    assert agent.returncode == 1
    assert b"no table [data_plane]" in error


def as_toml(profile: Profile) -> str:
    lines = [f"{key} = {json.dumps(str(getattr(profile, key)))}" for key in ("name", "data", "postgres", "valkey")]
    if plane := profile.data_plane:
        lines += ["[data_plane]", *(f"{k} = {json.dumps(str(v))}" for k, v in plane if isinstance(v, str | Path))]
    for name, address in profile.processes.items():
        lines += [f"[processes.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in address)]
    return "\n".join(lines)
