"""The deny list of a running data plane: rejected requests and streams that a kill ends."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from agent.data_plane import DataPlaneHarness, running, unwritable
from drw.agent import native_filter
from drw.agent.delivery import deny_list_delivery, envoy
from drw.agent.native_filter.siphash import siphash
from drw.agent.xds import translation
from drw.agent.xds.http_filters.deny_list import deny_list_filter, model_filter
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration, Route
from drw.gateway.request_router.routes.table import RouteSettings
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.runtime.settings import Profile
from support.json_types import Json, JsonObject
from support.parts import until

CHAT = "/v1/chat/completions"
SPARE = RouteSettings(name="spare", path="/v1/spare", methods=("GET",), scopes=("models:read",), upstream="models")
KILLED_KEY = Block(subject="KEY", org="local", name="key_bad", reason="KILLED")


def block(subject: str, name: str, reason: str = "KILLED", org: str = "local") -> Block:
    return Block(subject=subject, org=org, name=name, reason=reason)


async def request_result(
    data_plane: DataPlaneHarness, key: str, path: str = "/v1/models", **identity: str
) -> tuple[int, str]:
    """Return the status and the error code of a request with this key."""
    async with data_plane.client(data_plane.sign(key, "models:read", **identity)) as client:
        answer = await client.get(path)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


@pytest.mark.parametrize("active_filter", ["both", "blocked", "native_filter"])
async def test_each_block_reason_has_its_error(
    data_plane_profile: Profile, monkeypatch: pytest.MonkeyPatch, active_filter: str
) -> None:
    """Both filters deny together, and each denies alone when the other has an empty list."""
    empty = Configuration()
    if active_filter == "blocked":
        monkeypatch.setattr(
            translation, "filter_config", lambda configuration, seed: native_filter.filter_config(empty, seed)
        )
    elif active_filter == "native_filter":
        monkeypatch.setattr(translation, "deny_list_filter", lambda configuration: deny_list_filter(empty))
        monkeypatch.setattr(translation, "model_filter", lambda configuration: model_filter(empty))
    async with running(DataPlaneHarness(data_plane_profile)) as data_plane:
        await check_each_block_reason(data_plane)


async def check_each_block_reason(data_plane: DataPlaneHarness) -> None:
    blocks = [
        block("KEY", "key_killed"),
        block("KEY", "key_spent", "MONEY"),
        block("KEY", "key_tokens", "TOKENS"),
        block("KEY", "key_both", "TOKENS"),
        block("KEY", "key_both", "KILLED"),
        block("DESK", "trading"),
        block("ORG", "", "MONEY", org="poor"),
        block("MODEL", "m", org=""),
        block("MODEL", "own", org="local"),
        block("DESK", "stopped", org="poor"),
    ]
    assert (await data_plane.apply(blocks=blocks, revoked=["key_revoked"])).error == ""
    assert await request_result(data_plane, "key_good") == (200, "")
    assert await request_result(data_plane, "key_revoked") == (401, "invalid_api_key")
    assert await request_result(data_plane, "key_killed") == (403, "killed")
    assert await request_result(data_plane, "key_spent") == (429, "insufficient_quota")
    assert await request_result(data_plane, "key_tokens") == (429, "rate_limit_exceeded")
    assert await request_result(data_plane, "key_both") == (403, "killed")
    assert await request_result(data_plane, "key_good", desk="trading") == (403, "killed")
    assert await request_result(data_plane, "key_good", org="poor") == (429, "insufficient_quota")
    # The same name in another org is another subject, which the blocks of its own org still cover.
    assert await request_result(data_plane, "key_killed", org="other") == (200, "")
    assert await request_result(data_plane, "key_killed", org="poor") == (429, "insufficient_quota")
    assert await request_result(data_plane, "key_good", org="other", desk="trading") == (200, "")
    async with data_plane.client(data_plane.sign("key_good", "models:read")) as client:
        answer = await client.get("/v1/models", headers={"x-model": "m"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")
        # A model that one org killed still serves other orgs.
    for org, status in (("local", 403), ("other", 200)):
        async with data_plane.client(data_plane.sign("key_good", "models:read", org=org)) as client:
            assert (await client.get("/v1/models", headers={"x-model": "own"})).status_code == status
    assert await request_result(data_plane, "key_good", org="poor", desk="stopped") == (403, "killed")
    # An exhausted budget still allows administration; a kill does not.
    me, through = "/api/v1/me", (503, "service_unavailable")  # the services do not run in this test
    assert await request_result(data_plane, "key_spent", me) == through
    assert await request_result(data_plane, "key_tokens", me) == through
    assert await request_result(data_plane, "key_good", me, org="poor") == through
    assert await request_result(data_plane, "key_spent", me, desk="trading") == (403, "killed")
    assert await request_result(data_plane, "key_good", me, org="poor", desk="stopped") == (403, "killed")
    async with data_plane.client(data_plane.sign("key_tokens", "models:read")) as client:
        assert (await client.get("/v1/models")).headers["retry-after"] == "10"
        assert (await client.get("/healthz")).text == "ok\n"
    assert (await data_plane.apply()).error == ""
    assert await request_result(data_plane, "key_killed") == (200, "")


async def read_broken_stream(data_plane: DataPlaneHarness, key: str, body: str, **options: str) -> str:
    """Return what a stream sent before its connection broke; fail if it ended normally."""
    headers = {"x-model": options.pop("model", "")}
    text = ""
    async with data_plane.client(data_plane.sign(key, "models:invoke", **options)) as client:
        try:
            async with client.stream("POST", CHAT, content=body, headers=headers) as answer:
                async for chunk in answer.aiter_text():
                    text += chunk
        except httpx.RemoteProtocolError:
            return text
    raise AssertionError(f"a stream without an end ended as if it were whole: {text!r}")


async def test_kill_ends_active_streams_with_an_error(data_plane: DataPlaneHarness) -> None:
    killed = {"key": "key_bad", "desk": "trading", "model": "large"}
    model_of_all_orgs, model_of_one_org = block("MODEL", "large", org=""), block("MODEL", "large")
    for subject in (block("KEY", "key_bad"), block("DESK", "trading"), model_of_all_orgs, model_of_one_org):
        async with asyncio.TaskGroup() as tasks:
            streams = [
                tasks.create_task(read_broken_stream(data_plane, body='{"endless"}', **killed)) for _ in range(4)
            ]
            idle_stream = tasks.create_task(read_broken_stream(data_plane, body='{"endless", "quiet"}', **killed))
            unaffected = {"org": "other", "model": "large"} if subject is model_of_one_org else {"model": "small"}
            unaffected_stream = tasks.create_task(
                read_broken_stream(data_plane, "key_good", '{"endless"}', **unaffected)
            )
            await wait_for_streams(data_plane, 6)
            assert (await data_plane.apply(blocks=[subject])).error == ""
            texts = await asyncio.gather(*streams)
            assert (await idle_stream) == "data: on\n\n"
            await wait_for_streams(data_plane, 1)  # the upstream stopped too; the unaffected stream continues
            unaffected_stream.cancel()
        await wait_for_streams(data_plane, 0)
        assert (await data_plane.apply()).error == ""
        for text in texts:
            *previous, last, empty = text.split("\n\n")
            assert set(previous) == {"data: on"} and empty == ""
            event, data = last.split("\n")
            assert event == "event: error"
            error = json.loads(data.removeprefix("data: "))["error"]
            assert (error["type"], error["code"]) == ("permission_error", "killed")


@pytest.mark.parametrize("killing_org", ["", "local"])
async def test_kill_of_a_pass_through_model_matches_the_request_body(
    data_plane: DataPlaneHarness, killing_org: str
) -> None:
    large = with_defaults(Route(name="large", path=CHAT, upstream="models", models=["large"], pass_through=True))
    assert (await data_plane.apply(routes=(large,))).error == ""
    body = '{"model": "large", "endless": true}'
    stream = asyncio.create_task(read_broken_stream(data_plane, "key_good", body))
    await wait_for_streams(data_plane, 1)
    assert (await data_plane.apply(routes=(large,), blocks=[block("MODEL", "large", org=killing_org)])).error == ""
    assert '"code": "killed"' in await stream
    async with data_plane.client(data_plane.sign("key_good", "models:invoke")) as client:
        answer = await client.post(CHAT, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")
        assert (await client.post(CHAT, json={"model": "small"})).status_code == 200
    async with data_plane.client(data_plane.sign("key_good", "models:invoke", org="other")) as client:
        answer = await client.post(CHAT, json={"model": "large"})
        assert answer.status_code == (200 if killing_org else 403)
    await wait_for_streams(data_plane, 0)


@pytest.mark.parametrize("killing_org", ["", "local"])
async def test_kill_matches_the_model_that_the_response_names(data_plane: DataPlaneHarness, killing_org: str) -> None:
    kill = [block("MODEL", "large", org=killing_org)]
    stream = asyncio.create_task(read_broken_stream(data_plane, "key_good", '{"endless", "answering": "large"}'))
    await wait_for_streams(data_plane, 1)
    assert (await data_plane.apply(blocks=kill)).error == ""
    assert '"code": "killed"' in await stream
    async with data_plane.client(data_plane.sign("key_good", "models:invoke")) as client:
        answer = await client.post(CHAT, content='{"answering": "large"}')
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")
        assert (await client.post(CHAT, content='{"answering": "small"}')).status_code == 200
    async with data_plane.client(data_plane.sign("key_good", "models:invoke", org="other")) as client:
        answer = await client.post(CHAT, content='{"answering": "large"}')
        assert answer.status_code == (200 if killing_org else 403)
    await wait_for_streams(data_plane, 0)


async def test_pending_pass_through_request_gets_an_error_when_its_model_is_killed(
    data_plane: DataPlaneHarness,
) -> None:
    large = with_defaults(Route(name="large", path=CHAT, upstream="models", models=["large"], pass_through=True))
    assert (await data_plane.apply(routes=(large,))).error == ""

    async def send_request() -> httpx.Response:
        async with data_plane.client(data_plane.sign("key_good", "models:invoke")) as client:
            return await client.post(CHAT, json={"model": "large", "never": True})

    pending = asyncio.create_task(send_request())

    async def is_active() -> bool:
        return bool(await data_plane.admin().active_requests())

    await until(is_active, "the request")
    assert (await data_plane.apply(routes=(large,), blocks=[block("MODEL", "large", org="")])).error == ""
    answer = await pending
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")


async def test_pending_request_gets_an_error_when_its_key_is_killed(data_plane: DataPlaneHarness) -> None:
    async def send_request() -> httpx.Response:
        async with data_plane.client(data_plane.sign("key_bad", "models:read")) as client:
            return await client.get("/v1/never")

    never = RouteSettings(name="never", path="/v1/never", upstream="models")
    await data_plane.apply(static_routes=(never,))
    pending = asyncio.create_task(send_request())

    async def is_active() -> bool:
        return bool(await data_plane.admin().active_requests())

    await until(is_active, "the request")
    assert (await data_plane.apply(static_routes=(never,), blocks=[KILLED_KEY])).error == ""
    answer = await pending
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")


async def wait_for_streams(data_plane: DataPlaneHarness, number: int) -> None:
    async def stream_count_matches() -> bool:
        return data_plane.models.open_streams == number

    await until(stream_count_matches, f"{number} streams")


async def test_deny_list_does_not_wait_for_a_slow_validation(
    data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked key is denied while Envoy still validates another change, and stays denied afterwards."""
    validation_started, finish_validation, validate = asyncio.Event(), asyncio.Event(), envoy.validate

    async def slow_validation(configuration: JsonObject) -> None:
        validation_started.set()
        await finish_validation.wait()
        await validate(configuration)

    monkeypatch.setattr(envoy, "validate", slow_validation)
    routes = asyncio.create_task(data_plane.apply(static_routes=(SPARE,)))
    await validation_started.wait()
    assert await request_result(data_plane, "key_bad") == (200, "")
    newest = asyncio.create_task(
        data_plane.apply(static_routes=(SPARE,), revoked=["key_bad"], blocks=[block("KEY", "key_worse")])
    )

    async def both_are_denied() -> bool:
        return (await request_result(data_plane, "key_bad"))[0] == 401 and (
            await request_result(data_plane, "key_worse")
        )[0] == 403

    await until(both_are_denied, "the deny list")
    desired = data_plane.configuration(static_routes=(SPARE,), revoked=["key_bad"], blocks=[block("KEY", "key_worse")])
    reported = data_plane.router.reports[-1]
    assert (reported.refusals, reported.version) == (desired.refusals, data_plane.configuration().version)
    finish_validation.set()
    assert (await newest).error == ""
    routes.cancel()
    assert await both_are_denied()


async def test_native_filter_enforces_a_long_deny_list_before_the_rbac_filter(
    data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deny_list_delivery, "LONG_LIST", 2)
    monkeypatch.setattr(deny_list_delivery, "QUIET_SECONDS", 3600.0)
    folder = data_plane.plane.folder / "xds"
    assert (await data_plane.apply(revoked=["key_a"])).error == ""
    assert "key_a" in (folder / "blocked" / "blocked.json").read_text()
    assert (await data_plane.apply(revoked=["key_a", "key_b", "key_c"])).error == ""
    assert await request_result(data_plane, "key_c") == (401, "invalid_api_key")
    assert "key_c" not in (folder / "blocked" / "blocked.json").read_text()
    monkeypatch.setattr(deny_list_delivery, "MAX_WAIT_SECONDS", 0.0)  # the maximum wait is over

    async def rbac_filter_is_updated() -> bool:
        return "key_c" in (folder / "blocked" / "blocked.json").read_text()

    await until(rbac_filter_is_updated, "the RBAC filter")


async def test_deny_list_rejected_by_envoy_leaves_the_previous_one_active(
    data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await data_plane.apply(revoked=["key_bad"])).error == ""
    broken = {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"speed": 3}}
    monkeypatch.setattr(translation, "model_filter", lambda configuration: broken)
    report = await data_plane.apply(revoked=["key_bad", "key_worse"])
    assert report.error == "Envoy refuses the models of the configuration"
    assert report.refusals == data_plane.configuration(revoked=["key_bad"]).refusals
    monkeypatch.undo()
    assert await request_result(data_plane, "key_bad") == (401, "invalid_api_key")
    assert (await data_plane.apply(revoked=["key_worse"])).error == ""
    assert await request_result(data_plane, "key_worse") == (401, "invalid_api_key")


def invalid_configuration(data_plane: DataPlaneHarness, **differences: Json) -> Configuration:
    """Return a configuration with a route to an unknown upstream."""
    configuration = data_plane.configuration(**differences)
    configuration.routes.routes.add(name="lost", path="/v1/lost", upstream="nowhere")
    configuration.version = f"wrong {configuration.version}"
    return configuration


async def is_rejected(data_plane: DataPlaneHarness, key: str) -> bool:
    return await request_result(data_plane, key) == (401, "invalid_api_key")


async def test_rbac_filter_is_updated_although_a_route_is_rejected(
    data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The RBAC filter still denies when the native module has failed."""
    file = data_plane.plane.folder / "xds" / "blocked" / "blocked.json"
    monkeypatch.setattr(
        translation, "filter_config", lambda configuration, seed: native_filter.filter_config(Configuration(), seed)
    )
    report = await data_plane.router.apply(invalid_configuration(data_plane, revoked=["key_a"]))
    assert "the route 'lost' names the upstream 'nowhere'" in report.error
    await until(lambda: is_rejected(data_plane, "key_a"), "the RBAC filter")
    monkeypatch.setattr(deny_list_delivery, "LONG_LIST", 2)
    monkeypatch.setattr(deny_list_delivery, "QUIET_SECONDS", 3600.0)
    await data_plane.router.apply(invalid_configuration(data_plane, revoked=["key_a", "key_b"]))
    assert "key_b" not in file.read_text()
    monkeypatch.setattr(deny_list_delivery, "MAX_WAIT_SECONDS", 0.0)
    await until(lambda: is_rejected(data_plane, "key_b"), "the RBAC filter")


async def test_deny_list_that_cannot_be_written_is_retried(data_plane: DataPlaneHarness) -> None:
    desired = invalid_configuration(data_plane, revoked=["key_bad"])
    with unwritable(data_plane, "xds/native_filter/native_filter.json"):
        report = await data_plane.router.apply(desired)
        assert "the route 'lost' names the upstream 'nowhere'" in report.error
        assert report.refusals != desired.refusals

    async def is_applied() -> bool:
        return data_plane.router.reports[-1].refusals == desired.refusals

    await until(is_applied, "the enforced deny list")
    assert await request_result(data_plane, "key_bad") == (401, "invalid_api_key")


async def test_partially_written_deny_list_is_not_mistaken_for_the_previous_one(
    data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Configuration()
    monkeypatch.setattr(translation, "deny_list_filter", lambda configuration: deny_list_filter(empty))
    previous = [KILLED_KEY, block("MODEL", "m", org="")]
    assert (await data_plane.apply(blocks=previous)).error == ""
    with unwritable(data_plane, "xds/models/models.json"):
        assert "cannot be written" in (await data_plane.apply()).error

        async def block_is_lifted() -> bool:
            return await request_result(data_plane, "key_bad") == (200, "")

        await until(block_is_lifted, "the written part of the deny list")
        assert (await data_plane.apply(blocks=previous)).error == ""
        assert await request_result(data_plane, "key_bad") == (403, "killed")


def test_siphash_matches_the_reference_vectors() -> None:
    """Two of the reference vectors of SipHash-2-4."""
    seed = bytes(range(16))
    assert siphash(seed, b"") == 0x726FDB47DD0E0E31
    assert siphash(seed, bytes(range(15))) == 0xA129CA6149BE45E5
