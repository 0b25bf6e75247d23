"""What a data plane does while its configuration changes, is wrong, or cannot be had."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from agent.data_plane import Fed, running, unwritable
from agent.doubles import DoubleCollector
from drw.agent import agent
from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery import envoy
from drw.agent.reporting.log_rotation import BACKUPS, MAX_BYTES, AccessLog
from drw.api.gateway.v1.load_balancer_pb2 import Upstream as MadeUpstream
from drw.gateway.authentication.keys.signing import Signer, jwks, new_private_key
from drw.gateway.load_balancer.settings import UpstreamSettings as Upstream
from drw.gateway.request_router.routes.table import RouteSettings
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.http_server import HttpServer
from drw.kernel.runtime.settings import Profile
from support.parts import running as running_process
from support.parts import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

SPARE = RouteSettings(name="spare", path="/v1/spare", methods=("GET",), scopes=("models:read",), upstream="models")


def different(number: int, fed: Fed) -> dict[str, Any]:
    """Return the differences of the change of this number: routes, limits, revoked keys, upstreams, by turns."""
    extra = Upstream(addresses=(fed.profile.processes["models"].http,))
    to_extra = SPARE.model_copy(update={"upstream": "extra", "path": f"/v1/extra{number}"})
    turns: list[dict[str, Any]] = [
        {"more": (SPARE.model_copy(update={"path": f"/v1/spare{number}"}),)},
        {"own": {f"key_{number}": number + 1}},
        {"revoked": [f"key_{number}"]},
        {"upstreams": {"extra": extra}, "more": (to_extra,)},
    ]
    return turns[number % 4]


async def test_changes_under_load_drop_no_request(fed: Fed) -> None:
    secret, done, statuses = fed.sign("key_busy", "models:read"), asyncio.Event(), []

    async def knock() -> None:
        async with fed.client(secret) as client:
            while not done.is_set():
                statuses.append((await client.get("/v1/models")).status_code)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(knock())
        for number in range(32):
            report = await fed.want(**different(number, fed))
            assert report.error == ""
        done.set()
    assert set(statuses) == {200}
    assert len(statuses) > 32
    assert all(count == 0 for count in (await fed.admin().rejections()).values())


async def test_a_change_of_routes_leaves_the_limits_as_they_are(fed: Fed) -> None:
    own = {"key_slow": 2}
    await fed.want(own=own)
    async with fed.client(fed.sign("key_slow", "models:read")) as client:
        assert [(await client.get("/v1/models")).status_code for _ in range(3)] == [200, 200, 429]
        assert (await fed.want(own=own, more=(SPARE,))).error == ""
        assert (await fed.want(own=own, more=(SPARE,), revoked=["key_other"])).error == ""
        assert (await client.get("/v1/spare")).status_code == 429


async def test_what_is_wrong_is_refused_and_the_old_state_stays(fed: Fed) -> None:
    files = {f: f.read_bytes() for f in (fed.plane.folder / "xds").rglob("*.json")}
    wrong = fed.configuration()
    wrong.routes.routes.add(name="lost", path="/v1/lost", upstream="nowhere")
    wrong.version = "wrong"
    report = await fed.router_double.want(wrong)
    assert "the route 'lost' names the upstream 'nowhere'" in report.error
    wrong = fed.configuration()
    wrong.credentials.jwks = "no keys"
    wrong.version = "wrong again"
    assert "jwks" in (await fed.router_double.want(wrong)).error
    assert {f: f.read_bytes() for f in files} == files
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await fed.want(more=(SPARE,))).error == ""
        assert (await client.get("/v1/spare")).status_code == 200


async def test_what_is_good_beside_a_bad_route_is_tried_until_it_is_there(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, validate = [], envoy.validate

    async def gives_no_verdict_at_first(configuration: dict) -> None:
        given.append(configuration)
        if len(given) == 1:
            raise Unavailable("Envoy did not check the configuration")
        await validate(configuration)

    monkeypatch.setattr(envoy, "validate", gives_no_verdict_at_first)
    wrong, newer = fed.configuration(), Signer(new_private_key(), "drw", "drw-gateway")
    wrong.credentials.jwks, wrong.version = jwks([fed.signing, newer]), "wrong"
    wrong.routes.routes.add(name="lost", path="/v1/lost", upstream="nowhere")
    wanting = asyncio.create_task(fed.router_double.want(wrong))

    async def known() -> bool:
        return newer.kid in (fed.plane.folder / "xds" / "keys" / "keys.json").read_text()

    await until(known, "the signing key")
    await wanting
    assert len(given) == 2


async def test_an_agent_that_cannot_write_credentials_goes_on(fed: Fed) -> None:
    theirs = MadeUpstream(name="theirs", addresses=["127.0.0.1:9"], credential="extra")
    with unwritable(fed, "xds/secrets/extra/secret.json"):
        assert "cannot be written" in (await fed.want(made=[theirs])).error
    assert (await fed.want(made=[theirs], more=(SPARE,))).error == ""


async def test_the_last_good_state_is_kept_once_it_can_be(fed: Fed) -> None:
    kept = fed.plane.folder / "good" / "configuration.binpb"
    with unwritable(fed, "good/configuration.binpb"):
        assert "cannot be written" in (await fed.want(more=(SPARE,))).error

    async def there() -> bool:
        return b"/v1/spare" in kept.read_bytes()

    await until(there, "the last good state")


async def test_an_agent_that_cannot_put_its_log_aside_goes_on(
    front_profile: Profile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent, "CHECK_SECONDS", 0.02)
    folder = envoy.data_plane_settings(front_profile).folder
    (folder / f"access.{BACKUPS}.log").mkdir(parents=True)  # which no file can replace
    for number, size in ((f".{BACKUPS - 1}", 0), ("", MAX_BYTES)):
        (folder / f"access{number}.log").touch()
        os.truncate(folder / f"access{number}.log", size)
    async with running(Fed(front_profile)) as fed:

        async def warned() -> bool:
            return "cannot rotate the access log" in caplog.text

        await until(warned, "the warning")
        assert (await fed.want(more=(SPARE,))).error == ""


async def test_envoy_starts_without_the_control_plane(fed: Fed) -> None:
    await fed.want(more=(SPARE,), revoked=["key_gone"])
    await fed.stop_agent()
    await fed.stop_gateway()
    await fed.stop_envoy()
    await fed.start_envoy()
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/spare")).status_code == 200
    async with fed.client(fed.sign("key_gone", "models:read")) as client:
        assert (await client.get("/v1/spare")).status_code == 401
    fed.start_agent()  # it finds nobody to ask, and changes nothing
    await until(fed.envoy_answers, "Envoy")
    await fed.start_gateway()
    assert (await fed.want()).error == ""
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/spare")).status_code == 404


async def test_what_only_a_running_envoy_can_refuse_is_told_too(front_profile: Profile) -> None:
    fed = Fed(front_profile)
    host, _, port = envoy.data_plane_settings(front_profile).listen.partition(":")
    with socket.socket() as occupant:
        occupant.bind((host, int(port)))
        occupant.listen()
        try:
            await fed.start_gateway()
            fed.start_agent()
            wanting = asyncio.create_task(fed.want())

            async def ready() -> bool:
                return envoy.ready_file(front_profile).exists()

            await until(ready, "the bootstrap of Envoy")
            fed.launch_envoy()
            assert (await wanting).error == "Envoy refuses the listeners of the configuration"
        finally:
            await fed.stop()


async def test_traces_go_where_the_profile_says(front_profile: Profile) -> None:
    sink = DoubleCollector()
    server = HttpServer(sink.app)
    where = await server.start("127.0.0.1:0")
    fed = Fed(front_profile.model_copy(update={"otlp_endpoint": f"http://{where}"}))
    try:
        await fed.start()
        async with fed.client(fed.sign("key_1", "models:read")) as client:
            answers = [await client.get("/v1/models", headers={"traceparent": PARENT}) for _ in range(5)]

        async def traced() -> bool:
            return bytes.fromhex(TRACE) in sink.got

        await until(traced, "the spans")
    finally:
        await fed.stop()
        await server.stop(0)
    assert b"drw-gateway" in sink.got
    seen = answers[0].json()["headers"]["traceparent"]
    assert seen.split("-")[1] == TRACE and seen != PARENT  # the same trace, with the data plane's own span in it


async def test_an_upstream_that_says_nothing_for_too_long(fed: Fed) -> None:
    never = RouteSettings(name="never", path="/v1/never", upstream="models", idle_seconds=1)
    await fed.want(more=(never,))
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        answer = await client.get("/v1/never")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_process_of_the_platform_that_does_not_begin_to_answer_is_named(fed: Fed) -> None:
    never = RouteSettings(name="never", path="/v1/never", upstream="models", first_byte_ms=100)
    await fed.want(more=(never,))
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        answer = await client.get("/v1/never")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.headers["retry-after"]) == (503, "service_unavailable", "5")
    assert error["message"].startswith("the models services")
    assert all(route.first_byte_ms for route in fed.configuration().routes.routes)


async def test_what_may_have_run_is_not_sent_again(fed: Fed) -> None:
    seen = []

    async def read_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    path = fed.profile.processes["workflow"].http.removeprefix("unix:")
    async with (
        await asyncio.start_unix_server(read_and_hang_up, path),
        fed.client(fed.sign("key_1", "workflows:run")) as client,
    ):
        answer = await client.post("/api/v1/runs", json={})
    assert (answer.status_code, len(seen)) == (503, 1)
    assert answer.json()["error"]["message"].startswith("the workflow services")


async def test_a_full_log_is_put_aside(fed: Fed) -> None:
    file = fed.plane.folder / "access.log"
    async with fed.client(fed.sign("key_1", "models:read")) as client:

        async def logged(text: str) -> None:
            answer = await client.get("/v1/models", headers={"user-agent": text})
            told = answer.headers["x-request-id"]

            async def written() -> bool:
                return file.exists() and told in file.read_text()

            await until(written, "the line of the log")

        for _ in range(BACKUPS + 2):
            await logged("x")
            await AccessLog(file, fed.admin(), max_bytes=10).rotate()
        await logged("x")
        await AccessLog(file, fed.admin(), max_bytes=1 << 20).rotate()
    assert sorted(found.name for found in file.parent.glob("access.*")) == [
        *(f"access.{number}.log" for number in range(1, BACKUPS + 1)),
        "access.log",
    ]
    assert all(len(found.read_text().splitlines()) == 1 for found in file.parent.glob("access.*"))


async def test_whoever_has_no_key_writes_into_a_log_of_their_own(fed: Fed) -> None:
    """Otherwise requests without a key would push out the lines of calls that somebody is accountable for."""
    folder = fed.plane.folder
    await fed.want(revoked=["key_bad"])
    async with fed.client() as nobody, fed.client(fed.sign("key_1", "models:read")) as caller:
        known = await caller.get("/v1/models")
        known_too = [await caller.get("/v1/" + "a" * 50_000), await caller.get("/v1/files")]
        unknown = [
            await nobody.get("/v1/models"),
            await nobody.get("/healthz"),
            await nobody.get("/" + "a" * 50_000),
            await nobody.get("/v1/models", headers={"authorization": "Bearer a.b.c"}),
            await nobody.get("/v1/models", headers={"authorization": f"Bearer {fed.sign('key_bad', 'models:read')}"}),
            await nobody.get("/v1/models", headers={"x-drw-key": "key_1"}),
        ]
    found = {}
    for name, answers in (("access.log", [known, *known_too]), ("access-anonymous.log", unknown)):
        ids = [answer.headers["x-request-id"] for answer in answers]

        async def written(name=name, ids=ids) -> bool:
            return (folder / name).exists() and all(told in (folder / name).read_text() for told in ids)

        await until(written, f"the lines of {name}")
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        found[name] = {line["request_id"]: line for line in lines}
    for answer in unknown:
        assert answer.headers["x-request-id"] not in found["access.log"]
    assert found["access.log"][known.headers["x-request-id"]]["key"] == "key_1"
    for name, answer in (("access.log", known_too[0]), ("access-anonymous.log", unknown[2])):
        line = found[name][answer.headers["x-request-id"]]
        assert (len(line["path"]), int(line["path_length"])) == (512, len(answer.url.path))


async def test_nothing_that_a_caller_chooses_breaks_the_line_or_shows_a_key(fed: Fed) -> None:
    file = fed.plane.folder / "access.log"
    secret = fed.sign("key_1", "models:read")
    chosen = '/v1/a","key":"key_2'
    host, _, port = fed.plane.listen.rpartition(":")
    for path in (chosen, f"/v1/{secret}"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] == b"404"
        writer.close()

    async def written() -> bool:
        return file.exists() and len(file.read_text().splitlines()) == 2

    await until(written, "the lines of the log")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(line["key"], line["path"]) for line in lines} == {
        ("key_1", chosen.replace('"', "%22")),
        ("key_1", "(a key)"),
    }


async def test_a_log_that_was_put_aside_while_envoy_did_not_answer_is_followed_by_another(fed: Fed) -> None:
    file = fed.plane.folder / "access.log"

    async def ask() -> str:
        async with fed.client(fed.sign("key_1", "models:read")) as client:
            return str((await client.get("/v1/models")).headers["x-request-id"])

    before = await ask()

    async def written() -> bool:
        return file.exists() and before in file.read_text()

    await until(written, "the line of the log")
    with pytest.raises(Unavailable):
        await AccessLog(file, EnvoyAdmin("unix:/nowhere"), max_bytes=10).rotate()
    await AccessLog(file, fed.admin(), max_bytes=1 << 20).rotate()
    before = await ask()
    await until(written, "the line of the new log")


async def test_a_stream_under_way_outlives_an_orderly_stop(fed: Fed) -> None:
    async def stop() -> None:
        await fed.admin().drain(30)
        await fed.stop_envoy()

    async with (
        fed.client(fed.sign("key_1", "models:invoke")) as client,
        client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer,
    ):
        stopping = asyncio.create_task(stop())
        for _ in range(5):
            assert await fed.envoy_answers()  # it had the time to stop, and did not
        lines = answer.aiter_lines()
        for number in range(5):
            fed.models.go_on.release()
            assert await anext(lines) == f"data: {number}"
            assert await anext(lines) == ""
        assert [line async for line in lines] == []
    await stopping


async def test_the_agent_is_a_process_of_its_own(front_profile: Profile, tmp_path: Path) -> None:
    fed, file, said = Fed(front_profile), tmp_path / "profile.toml", tmp_path / "agent.log"
    file.write_text(as_toml(front_profile))
    await fed.start_gateway()
    with running_process([sys.executable, "-m", "drw.agent", str(file)], said) as agent:
        try:
            wanting = asyncio.create_task(fed.want())
            await fed.start_envoy()
            assert (await wanting).error == "", said.read_text()
            agent.terminate()
            assert await asyncio.to_thread(agent.wait, 30) == 0
        finally:
            print(said.read_text())  # shown where the test fails
            await fed.stop()
    assert f"version {fed.configuration().version}: runs" in said.read_text()


async def test_an_agent_without_a_data_plane_says_so(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "profile.toml"
    file.write_text(as_toml(profile))
    agent = await asyncio.create_subprocess_exec(sys.executable, "-m", "drw.agent", str(file), stderr=PIPE)
    _, said = await agent.communicate()
    assert agent.returncode == 1
    assert b"no table [data_plane]" in said


def as_toml(profile: Profile) -> str:
    lines = [f"{key} = {json.dumps(str(getattr(profile, key)))}" for key in ("name", "data", "postgres", "valkey")]
    if plane := profile.data_plane:
        lines += ["[data_plane]", *(f"{k} = {json.dumps(str(v))}" for k, v in plane if isinstance(v, str | Path))]
    for name, place in profile.processes.items():
        lines += [f"[processes.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in place)]
    return "\n".join(lines)
