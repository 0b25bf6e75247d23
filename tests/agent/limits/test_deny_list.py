"""Whom a data plane refuses, and whose streams it cuts, while it runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from agent.data_plane import Fed, running, unwritable
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
from support.parts import until

CHAT = "/v1/chat/completions"
SPARE = RouteSettings(name="spare", path="/v1/spare", methods=("GET",), scopes=("models:read",), upstream="models")
KILLED_KEY = Block(subject="KEY", org="local", name="key_bad", reason="KILLED")


def block(subject: str, name: str, reason: str = "KILLED", org: str = "local") -> Block:
    return Block(subject=subject, org=org, name=name, reason=reason)


async def refused(fed: Fed, key: str, path: str = "/v1/models", **identity: str) -> tuple[int, str]:
    """Return the status and the code that a key gets; 200 has none."""
    async with fed.client(fed.sign(key, "models:read", **identity)) as client:
        answer = await client.get(path)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


@pytest.mark.parametrize("alone", ["both", "blocked", "native_filter"])
async def test_each_reason_has_its_answer(front_profile: Profile, monkeypatch: pytest.MonkeyPatch, alone: str) -> None:
    """Both filters refuse, and each of them does where the other knows of nothing."""
    nothing = Configuration()
    if alone == "blocked":
        monkeypatch.setattr(
            translation, "filter_config", lambda configuration, seed: native_filter.filter_config(nothing, seed)
        )
    elif alone == "native_filter":
        monkeypatch.setattr(translation, "deny_list_filter", lambda configuration: deny_list_filter(nothing))
        monkeypatch.setattr(translation, "model_filter", lambda configuration: model_filter(nothing))
    async with running(Fed(front_profile)) as fed:
        await each_reason_has_its_answer(fed)


async def each_reason_has_its_answer(fed: Fed) -> None:
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
    assert (await fed.want(blocks=blocks, revoked=["key_revoked"])).error == ""
    assert await refused(fed, "key_good") == (200, "")
    assert await refused(fed, "key_revoked") == (401, "invalid_api_key")
    assert await refused(fed, "key_killed") == (403, "killed")
    assert await refused(fed, "key_spent") == (429, "insufficient_quota")
    assert await refused(fed, "key_tokens") == (429, "rate_limit_exceeded")
    assert await refused(fed, "key_both") == (403, "killed")
    assert await refused(fed, "key_good", desk="trading") == (403, "killed")
    assert await refused(fed, "key_good", org="poor") == (429, "insufficient_quota")
    # A name of another org is another name, and its own org's blocks count for it all the same.
    assert await refused(fed, "key_killed", org="other") == (200, "")
    assert await refused(fed, "key_killed", org="poor") == (429, "insufficient_quota")
    assert await refused(fed, "key_good", org="other", desk="trading") == (200, "")
    async with fed.client(fed.sign("key_good", "models:read")) as client:
        answer = await client.get("/v1/models", headers={"x-model": "m"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")
    # A model that one org killed serves the others.
    for org, status in (("local", 403), ("other", 200)):
        async with fed.client(fed.sign("key_good", "models:read", org=org)) as client:
            assert (await client.get("/v1/models", headers={"x-model": "own"})).status_code == status
    assert await refused(fed, "key_good", org="poor", desk="stopped") == (403, "killed")
    # Who has spent all still administers; who is stopped does not.
    me, through = "/api/v1/me", (503, "service_unavailable")  # to services that are not here
    assert await refused(fed, "key_spent", me) == through
    assert await refused(fed, "key_tokens", me) == through
    assert await refused(fed, "key_good", me, org="poor") == through
    assert await refused(fed, "key_spent", me, desk="trading") == (403, "killed")
    assert await refused(fed, "key_good", me, org="poor", desk="stopped") == (403, "killed")
    async with fed.client(fed.sign("key_tokens", "models:read")) as client:
        assert (await client.get("/v1/models")).headers["retry-after"] == "10"
        assert (await client.get("/healthz")).text == "ok\n"
    assert (await fed.want()).error == ""
    assert await refused(fed, "key_killed") == (200, "")


async def streamed(fed: Fed, key: str, body: str, **options: str) -> str:
    """Return what a stream gave until it ended, and how: "whole" or "broken"."""
    headers = {"x-model": options.pop("model", "")}
    text = ""
    async with fed.client(fed.sign(key, "models:invoke", **options)) as client:
        try:
            async with client.stream("POST", CHAT, content=body, headers=headers) as answer:
                async for part in answer.aiter_text():
                    text += part
        except httpx.RemoteProtocolError:
            return text
    raise AssertionError(f"a stream without an end ended as if it were whole: {text!r}")


async def test_streams_of_whoever_is_killed_end_with_an_error(fed: Fed) -> None:
    bad = {"key": "key_bad", "desk": "trading", "model": "large"}
    everywhere, own = block("MODEL", "large", org=""), block("MODEL", "large")
    for what in (block("KEY", "key_bad"), block("DESK", "trading"), everywhere, own):
        async with asyncio.TaskGroup() as tasks:
            cut = [tasks.create_task(streamed(fed, body='{"endless"}', **bad)) for _ in range(4)]
            silent = tasks.create_task(streamed(fed, body='{"endless", "quiet"}', **bad))
            elsewhere = {"org": "other", "model": "large"} if what is own else {"model": "small"}
            other = tasks.create_task(streamed(fed, "key_good", '{"endless"}', **elsewhere))
            await until_streams(fed, 6)
            assert (await fed.want(blocks=[what])).error == ""
            texts = await asyncio.gather(*cut)
            assert (await silent) == "data: on\n\n"
            await until_streams(fed, 1)  # the upstream's work has ended, too; the other's goes on
            other.cancel()
        await until_streams(fed, 0)
        assert (await fed.want()).error == ""
        for text in texts:
            *before, last, empty = text.split("\n\n")
            assert set(before) == {"data: on"} and empty == ""
            error = json.loads(last.removeprefix("data: "))["error"]
            assert (error["type"], error["code"]) == ("permission_error", "killed")


@pytest.mark.parametrize("killer", ["", "local"])
async def test_a_model_that_passes_by_our_services_is_known_by_the_body(fed: Fed, killer: str) -> None:
    large = with_defaults(Route(name="large", path=CHAT, upstream="models", models=["large"], pass_through=True))
    assert (await fed.want(records=(large,))).error == ""
    body = '{"model": "large", "endless": true}'
    stream = asyncio.create_task(streamed(fed, "key_good", body))
    await until_streams(fed, 1)
    assert (await fed.want(records=(large,), blocks=[block("MODEL", "large", org=killer)])).error == ""
    assert '"code": "killed"' in await stream
    async with fed.client(fed.sign("key_good", "models:invoke")) as client:
        answer = await client.post(CHAT, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")
        assert (await client.post(CHAT, json={"model": "small"})).status_code == 200
    async with fed.client(fed.sign("key_good", "models:invoke", org="other")) as client:
        answer = await client.post(CHAT, json={"model": "large"})
        assert answer.status_code == (200 if killer else 403)
    await until_streams(fed, 0)


@pytest.mark.parametrize("killer", ["", "local"])
async def test_a_model_that_only_the_answer_names_is_cut_too(fed: Fed, killer: str) -> None:
    kill = [block("MODEL", "large", org=killer)]
    stream = asyncio.create_task(streamed(fed, "key_good", '{"endless", "answering": "large"}'))
    await until_streams(fed, 1)
    assert (await fed.want(blocks=kill)).error == ""
    assert '"code": "killed"' in await stream
    async with fed.client(fed.sign("key_good", "models:invoke")) as client:
        answer = await client.post(CHAT, content='{"answering": "large"}')
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")
        assert (await client.post(CHAT, content='{"answering": "small"}')).status_code == 200
    async with fed.client(fed.sign("key_good", "models:invoke", org="other")) as client:
        answer = await client.post(CHAT, content='{"answering": "large"}')
        assert answer.status_code == (200 if killer else 403)
    await until_streams(fed, 0)


async def test_who_waits_for_a_model_of_an_upstream_gets_an_answer_when_it_is_killed(fed: Fed) -> None:
    large = with_defaults(Route(name="large", path=CHAT, upstream="models", models=["large"], pass_through=True))
    assert (await fed.want(records=(large,))).error == ""

    async def ask() -> httpx.Response:
        async with fed.client(fed.sign("key_good", "models:invoke")) as client:
            return await client.post(CHAT, json={"model": "large", "never": True})

    asking = asyncio.create_task(ask())

    async def under_way() -> bool:
        return bool(await fed.admin().active_requests())

    await until(under_way, "the request")
    assert (await fed.want(records=(large,), blocks=[block("MODEL", "large", org="")])).error == ""
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")


async def test_a_request_without_an_answer_yet_gets_one(fed: Fed) -> None:
    async def ask() -> httpx.Response:
        async with fed.client(fed.sign("key_bad", "models:read")) as client:
            return await client.get("/v1/never")

    never = RouteSettings(name="never", path="/v1/never", upstream="models")
    await fed.want(more=(never,))
    asking = asyncio.create_task(ask())

    async def under_way() -> bool:
        return bool(await fed.admin().active_requests())

    await until(under_way, "the request")
    assert (await fed.want(more=(never,), blocks=[KILLED_KEY])).error == ""
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "killed")


async def until_streams(fed: Fed, number: int) -> None:
    async def so_many() -> bool:
        return fed.models.streams == number

    await until(so_many, f"{number} streams")


async def test_refusals_do_not_wait_for_a_slow_trial_run(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Envoy still tries another change out, a revoked key is refused; what is older does not come back."""
    begun, go_on, validate = asyncio.Event(), asyncio.Event(), envoy.validate

    async def slow(configuration: dict) -> None:
        begun.set()
        await go_on.wait()
        await validate(configuration)

    monkeypatch.setattr(envoy, "validate", slow)
    routes = asyncio.create_task(fed.want(more=(SPARE,)))
    await begun.wait()
    assert await refused(fed, "key_bad") == (200, "")
    newest = asyncio.create_task(fed.want(more=(SPARE,), revoked=["key_bad"], blocks=[block("KEY", "key_worse")]))

    async def both() -> bool:
        return (await refused(fed, "key_bad"))[0] == 401 and (await refused(fed, "key_worse"))[0] == 403

    await until(both, "the refusals")
    wanted = fed.configuration(more=(SPARE,), revoked=["key_bad"], blocks=[block("KEY", "key_worse")])
    told = fed.router_double.reports[-1]
    assert (told.refusals, told.version) == (wanted.refusals, fed.configuration().version)
    go_on.set()
    assert (await newest).error == ""
    routes.cancel()
    assert await both()


async def test_a_long_list_is_in_force_before_envoys_own_filter_has_it(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deny_list_delivery, "LONG_LIST", 2)
    monkeypatch.setattr(deny_list_delivery, "QUIET_SECONDS", 3600.0)
    folder = fed.plane.folder / "xds"
    assert (await fed.want(revoked=["key_a"])).error == ""
    assert "key_a" in (folder / "blocked" / "blocked.json").read_text()
    assert (await fed.want(revoked=["key_a", "key_b", "key_c"])).error == ""
    assert await refused(fed, "key_c") == (401, "invalid_api_key")
    assert "key_c" not in (folder / "blocked" / "blocked.json").read_text()
    monkeypatch.setattr(deny_list_delivery, "MAX_WAIT_SECONDS", 0.0)  # it has waited for as long as it may

    async def there() -> bool:
        return "key_c" in (folder / "blocked" / "blocked.json").read_text()

    await until(there, "Envoy's own filter")


async def test_refusals_that_envoy_does_not_take_leave_those_before(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await fed.want(revoked=["key_bad"])).error == ""
    broken = {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"speed": 3}}
    monkeypatch.setattr(translation, "model_filter", lambda configuration: broken)
    report = await fed.want(revoked=["key_bad", "key_worse"])
    assert report.error == "Envoy refuses the models of the configuration"
    assert report.refusals == fed.configuration(revoked=["key_bad"]).refusals
    monkeypatch.undo()
    assert await refused(fed, "key_bad") == (401, "invalid_api_key")
    assert (await fed.want(revoked=["key_worse"])).error == ""
    assert await refused(fed, "key_worse") == (401, "invalid_api_key")


def wrong(fed: Fed, **differences: Any) -> Configuration:
    """Return a desired state with a route that leads nowhere."""
    made = fed.configuration(**differences)
    made.routes.routes.add(name="lost", path="/v1/lost", upstream="nowhere")
    made.version = f"wrong {made.version}"
    return made


async def is_refused(fed: Fed, key: str) -> bool:
    return await refused(fed, key) == (401, "invalid_api_key")


async def test_a_route_that_is_refused_keeps_nobody_off_envoys_own_filter(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that still refuses where the module has failed."""
    own = fed.plane.folder / "xds" / "blocked" / "blocked.json"
    monkeypatch.setattr(
        translation, "filter_config", lambda configuration, seed: native_filter.filter_config(Configuration(), seed)
    )
    report = await fed.router_double.want(wrong(fed, revoked=["key_a"]))
    assert "the route 'lost' names the upstream 'nowhere'" in report.error
    await until(lambda: is_refused(fed, "key_a"), "Envoy's own filter")
    monkeypatch.setattr(deny_list_delivery, "LONG_LIST", 2)
    monkeypatch.setattr(deny_list_delivery, "QUIET_SECONDS", 3600.0)
    await fed.router_double.want(wrong(fed, revoked=["key_a", "key_b"]))
    assert "key_b" not in own.read_text()
    monkeypatch.setattr(deny_list_delivery, "MAX_WAIT_SECONDS", 0.0)
    await until(lambda: is_refused(fed, "key_b"), "Envoy's own filter")


async def test_refusals_that_cannot_be_written_are_tried_again(fed: Fed) -> None:
    wanted = wrong(fed, revoked=["key_bad"])
    with unwritable(fed, "xds/native_filter/native_filter.json"):
        report = await fed.router_double.want(wanted)
        assert "the route 'lost' names the upstream 'nowhere'" in report.error
        assert report.refusals != wanted.refusals

    async def told() -> bool:
        return fed.router_double.reports[-1].refusals == wanted.refusals

    await until(told, "word that the refusals are in force")
    assert await refused(fed, "key_bad") == (401, "invalid_api_key")


async def test_refusals_that_were_half_written_are_not_taken_for_those_before(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Configuration()
    monkeypatch.setattr(translation, "deny_list_filter", lambda configuration: deny_list_filter(nothing))
    before = [KILLED_KEY, block("MODEL", "m", org="")]
    assert (await fed.want(blocks=before)).error == ""
    with unwritable(fed, "xds/models/models.json"):
        assert "cannot be written" in (await fed.want()).error

        async def lifted() -> bool:
            return await refused(fed, "key_bad") == (200, "")

        await until(lifted, "the half that was written")
        assert (await fed.want(blocks=before)).error == ""
        assert await refused(fed, "key_bad") == (403, "killed")


def test_a_hash_is_that_of_the_standard() -> None:
    """Two of the test vectors of SipHash-2-4."""
    seed = bytes(range(16))
    assert siphash(seed, b"") == 0x726FDB47DD0E0E31
    assert siphash(seed, bytes(range(15))) == 0xA129CA6149BE45E5
