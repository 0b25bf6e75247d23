"""Discovery: models, default model, aliases, and public descriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from drw.api.models.v1.discovery_pb2 import (
    GetModelRequest,
    ListAliasesRequest,
    ListModelsRequest,
    Model,
    ResolveModelRequest,
    ResolvePlanRequest,
    WatchAliasesRequest,
)
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import NotFound
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile, SettingLayers
from drw.models.discovery.registry import ModelSettings
from support.hosting import hosted
from support.json_types import Json, JsonObject

SMALL = {"engine": "llama_cpp", "base_url": "unix:/tmp/e.sock", "context_length": 2048, "licence": "Apache-2.0"}
LARGE = {"engine": "openai", "base_url": "https://upstream.example/v1/", "api_key_variable": "UPSTREAM_KEY"}
VECTORS = {"kind": "embedding", "engine": "onnx", "dimensions": 384}


def with_models(profile: Profile, models: JsonObject, **more: Json) -> Profile:
    return profile.model_copy(update={"services": {"discovery": {"models": models, **more}}})


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_models_are_found_by_id_and_by_default(profile: Profile, how: str) -> None:
    settings = with_models(profile, {"small": SMALL, "large": LARGE, "vectors": VECTORS}, default_model="small")
    async with hosted(settings, ["discovery"], how) as host:
        client = host.client(DiscoveryClient)
        listed = (await client.list_models(ListModelsRequest())).models
        assert [(m.id, m.kind, m.default) for m in listed] == [
            ("small", Model.CHAT, True),
            ("large", Model.CHAT, False),
            ("vectors", Model.EMBEDDING, False),
        ]
        assert (await client.get_model(GetModelRequest())).id == "small"
        resolved = await client.resolve_model(ResolveModelRequest(id="large"))
        assert (resolved.base_url, resolved.upstream_model) == ("https://upstream.example/v1", "large")
        with pytest.raises(NotFound, match="'gone' does not exist; there are: small, large, vectors") as caught:
            await client.resolve_model(ResolveModelRequest(id="gone"))
        assert caught.value.metadata["code"] == "model_not_found"


async def test_rest_exposes_no_addresses_and_no_resolve_methods(profile: Profile) -> None:
    async with hosted(with_models(profile, {"large": LARGE}), ["discovery"]) as host:
        headers = {"x-drw-key": "key_1", "x-drw-scopes": "models:read"}
        transport = httpx.ASGITransport(app=host.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=headers) as cluster:
            answer = await cluster.get("/api/v1/models")
            assert answer.json()["models"][0]["id"] == "large"
            assert "upstream.example" not in answer.text
            assert "UPSTREAM_KEY" not in answer.text
            assert (await cluster.get("/api/v1/models/large")).json()["default"] is True


async def test_one_line_of_settings_adds_a_default_model(profile: Profile, tmp_path: Path) -> None:
    defaults_file, operator_file = tmp_path / "shipped.toml", tmp_path / "own.toml"
    defaults_file.write_text(
        f'name = "t"\ndata = "{tmp_path}"\npostgres = ""\nvalkey = ""\n'
        '[services.discovery]\ndefault_model = "small"\n'
        '[services.discovery.models.small]\nengine = "llama_cpp"\nbase_url = "unix:/tmp/e.sock"\n'
    )
    operator_file.write_text(
        'services.discovery.models.gpt-4o = { engine = "openai", base_url = "https://upstream.example/v1", '
        'api_key_variable = "OPENAI_API_KEY", default = true }'
    )
    sections = SettingLayers([defaults_file, operator_file], {}).profile().services
    async with hosted(profile.model_copy(update={"services": sections}), ["discovery"]) as host:
        assert (await host.client(DiscoveryClient).get_model(GetModelRequest())).id == "gpt-4o"


@pytest.mark.parametrize(
    ("section", "remedy"),
    [
        ({"models": {"a": SMALL, "b": LARGE}}, "default_model must name one of the chat models: a, b"),
        ({"models": {"a": SMALL}, "default_model": "c"}, "default_model is 'c'; the chat models are: a"),
        ({"models": {"a": SMALL | {"default": True}, "b": LARGE | {"default": True}}}, "now a and b have it"),
        ({"models": {"a": {"engine": "openai"}}}, "base_url is ''; it must be like"),
        ({"models": {"a": LARGE | {"base_url": "http://169.254.169.254/v1"}}}, "a link-local, metadata or multicast"),
        (
            {"models": {"a": LARGE | {"base_url": "http://[::ffff:a9fe:a9fe]/v1"}}},
            "a link-local, metadata or multicast",
        ),
        ({"models": {"a": LARGE | {"base_url": "http://metadata.google.internal/v1"}}}, "is a cloud's metadata"),
        (
            {"models": {"a": LARGE | {"base_url": "http://2852039166/v1"}}},
            "write the IP '2852039166' with four decimal",
        ),
        ({"models": {"a": SMALL | {"engine": "abacus"}}}, "models.a.engine: Input should be 'llama_cpp'"),
        ({"models": {"a": SMALL | {"colour": "red"}}}, "models.a.colour: Extra inputs are not permitted"),
        ({"models": {"a": VECTORS | {"default": True}}}, "only a chat model can be the default"),
        ({"models": {"a b": SMALL}}, "'a b' cannot be the id of a model"),
    ],
)
async def test_invalid_model_settings_are_rejected_with_a_remedy(
    profile: Profile, section: JsonObject, remedy: str
) -> None:
    host = Host(profile.model_copy(update={"services": {"discovery": section}}), "test", ["discovery"])
    with pytest.raises(ConfigError) as caught:
        await host.start()
    assert remedy in caught.value.message
    await host.stop()


ALIASES = {"fast": {"targets": {"small": 90, "large": 10}, "fallbacks": ["spare"], "total_seconds": 30}}
MODELS = {"small": SMALL | {"fallbacks": ["large"]}, "large": LARGE, "spare": LARGE, "vectors": VECTORS}
ADMIN = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-scopes": "platform:admin models:read"}


@asynccontextmanager
async def rest(profile: Profile, **more: Json) -> AsyncIterator[tuple[httpx.AsyncClient, DiscoveryClient]]:
    """Run discovery, and give its REST side and its client."""
    async with hosted(with_models(profile, MODELS, default_model="small", **more), ["discovery"]) as host:
        transport = httpx.ASGITransport(app=host.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=ADMIN) as cluster:
            yield cluster, host.client(DiscoveryClient)


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_candidates_are_targets_by_weight_then_fallbacks(profile: Profile, how: str) -> None:
    async with hosted(with_models(profile, MODELS, default_model="small", aliases=ALIASES), ["discovery"], how) as host:
        client = host.client(DiscoveryClient)
        plan = await client.resolve_plan(ResolvePlanRequest(id="fast"))
        assert [(t.model.model.id, t.weight) for t in plan.targets] == [("small", 90), ("large", 10)]
        assert ([m.model.id for m in plan.fallbacks], plan.total_seconds) == (["spare"], 30)
        alone = await client.resolve_plan(ResolvePlanRequest())
        assert (alone.id, [m.model.id for m in alone.fallbacks]) == ("small", ["large"])
        assert alone.targets[0].model.prefill == "assistant"
        shown = await client.get_model(GetModelRequest(id="fast"))
        assert (list(shown.targets), list(shown.fallbacks), shown.kind) == (["small", "large"], ["spare"], Model.CHAT)
        assert [m.id for m in (await client.list_models(ListModelsRequest())).models][-1] == "fast"


async def test_alias_changes_apply_at_run_time_and_are_audited(profile: Profile) -> None:
    async with rest(profile, aliases=ALIASES) as (cluster, client):
        watch = client.watch_aliases(WatchAliasesRequest())
        await anext(watch)
        body = {"targets": [{"model": "large", "weight": 1}]}
        assert (await cluster.put("/api/v1/aliases/fast", json=body)).status_code == 200
        await anext(watch)
        plan = await client.resolve_plan(ResolvePlanRequest(id="fast"))
        assert [t.model.model.id for t in plan.targets] == ["large"]
        (listed,) = (await cluster.get("/api/v1/aliases")).json()["aliases"]
        assert (listed["name"], listed["from_settings"]) == ("fast", False)
        assert (await cluster.delete("/api/v1/aliases/fast")).status_code == 200
        plan = await client.resolve_plan(ResolvePlanRequest(id="fast"))
        assert len(plan.targets) == 2  # that of the settings counts again
        answer = await cluster.delete("/api/v1/aliases/fast")
        assert (answer.status_code, "is in the settings" in answer.text) == (400, True)
        assert (await cluster.delete("/api/v1/aliases/gone")).status_code == 404
        await watch.aclose()
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select record::jsonb from audit.inbox order by id").fetchall()
    was = {"targets": {"small": 90, "large": 10}, "fallbacks": ["spare"], "total_seconds": 30}
    became = {"targets": {"large": 1}, "fallbacks": [], "total_seconds": 0}
    assert [(r["action"], r["resource"], r["actor"]) for (r,) in rows] == [
        ("alias.set", "alias/fast", "key_1"),
        ("alias.delete", "alias/fast", "key_1"),
    ]
    assert [r["details"] for (r,) in rows] == [{"before": was, "after": became}, {"before": became, "after": was}]


async def test_a_stored_alias_survives_a_restart_and_reaches_other_processes(profile: Profile) -> None:
    async with rest(profile) as (cluster, _), rest(profile) as (_, other):
        watch = other.watch_aliases(WatchAliasesRequest())
        await anext(watch)
        body = {"targets": [{"model": "large", "weight": 1}]}
        assert (await cluster.put("/api/v1/aliases/mine", json=body)).status_code == 200
        async with asyncio.timeout(30):
            while not (await other.list_aliases(ListAliasesRequest())).aliases:
                await anext(watch)
        await watch.aclose()
    async with rest(profile) as (_, again):
        assert (await again.resolve_plan(ResolvePlanRequest(id="mine"))).targets[0].model.model.id == "large"


@pytest.mark.parametrize(
    ("name", "body", "remedy"),
    [
        ("small", {"targets": [{"model": "large", "weight": 1}]}, "'small' is a model"),
        ("a b", {"targets": [{"model": "large", "weight": 1}]}, "'a b' cannot name an alias"),
        ("a", {}, "at least one target"),
        ("a", {"targets": [{"model": "gone", "weight": 1}]}, "'gone' is not a model; there are: large"),
        ("a", {"targets": [{"model": "vectors", "weight": 1}]}, "'vectors' is not a model"),
        ("a", {"targets": [{"model": "large", "weight": -1}]}, "the weight of 'large' is -1"),
        ("a", {"targets": [{"model": "large", "weight": 0}]}, "needs a weight above 0"),
        ("a", {"targets": [{"model": "large", "weight": 1}], "fallbacks": ["large"]}, "named twice"),
        ("a", {"targets": [{"model": "large", "weight": 1}], "total_seconds": "NaN"}, "total_seconds"),
        ("a", {"targets": [{"model": "large", "weight": 1}], "total_seconds": 7200}, "total_seconds is 7200"),
        ("a", {"targets": [{"model": "large"}] * 17}, "has 17 models; at most 16"),
    ],
)
async def test_an_invalid_alias_is_rejected_with_a_remedy(
    profile: Profile, name: str, body: JsonObject, remedy: str
) -> None:
    async with rest(profile) as (cluster, _):
        answer = await cluster.put(f"/api/v1/aliases/{name}", json=body)
        assert (answer.status_code, remedy in answer.json()["error"]["message"]) == (400, True), answer.text


async def test_only_administrators_can_change_aliases(profile: Profile) -> None:
    async with rest(profile) as (cluster, _):
        body = {"targets": [{"model": "large", "weight": 1}]}
        headers = {"x-drw-scopes": "models:read models:invoke org:admin"}
        assert (await cluster.put("/api/v1/aliases/a", json=body, headers=headers)).status_code == 403
        assert (await cluster.delete("/api/v1/aliases/a", headers=headers)).status_code == 403
        assert (await cluster.get("/api/v1/aliases", headers=headers)).json()["aliases"] == []


@pytest.mark.parametrize(
    ("section", "remedy"),
    [
        ({"models": {"a": SMALL | {"fallbacks": ["b"]}}}, "models.a.fallbacks has 'b'; other chat models are: none"),
        ({"models": {"a": SMALL | {"base_urls": ["unix:/tmp/x.sock"]}}}, "give base_url or base_urls, not both"),
        ({"models": {"a": LARGE | {"base_url": "", "base_urls": ["http://h/v1"] * 2}}}, "has an address twice"),
        ({"models": {"a": SMALL}, "aliases": {"b": {"targets": {"c": 1}}}}, "aliases.b: 'c' is not a model"),
        ({"models": {"a": SMALL}, "aliases": {"a": {"targets": {"a": 1}}}}, "aliases.a: 'a' is a model"),
        ({"models": {"a": VECTORS | {"fallbacks": ["b"]}}}, "an embedding model has no fallbacks"),
    ],
)
async def test_invalid_fallbacks_and_aliases_are_rejected_with_a_remedy(
    profile: Profile, section: JsonObject, remedy: str
) -> None:
    host = Host(profile.model_copy(update={"services": {"discovery": section}}), "test", ["discovery"])
    with pytest.raises(ConfigError) as caught:
        await host.start()
    assert remedy in caught.value.message
    await host.stop()


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ({"kind": "reranker", "engine": "vertex"}, "a reranker model has engine = 'onnx' or 'openai'"),
        ({"kind": "reranker", "engine": "onnx"}, "a reranker model needs an absolute path"),
        ({"kind": "reranker", "engine": "onnx", "folder": "/r", "base_url": "http://h/v1"}, "has a folder, not a base"),
        ({"kind": "reranker", "engine": "openai"}, "it must be like 'https://host/v1'"),
        (
            {"kind": "reranker", "engine": "openai", "folder": "/r", "base_url": "http://h/v1"},
            "a base_url, not a folder",
        ),
        ({"kind": "moderation", "engine": "onnx", "folder": "/r"}, "a moderation model has engine = 'openai'"),
        ({"kind": "moderation", "engine": "openai", "base_url": "http://h/v1", "parameters": ["a"]}, "no parameters"),
        ({"kind": "moderation", "engine": "openai", "base_url": "http://h/v1", "default": True}, "only a chat model"),
    ],
)
def test_rerankers_and_moderation_models_are_checked(model: JsonObject, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        ModelSettings(**model)
