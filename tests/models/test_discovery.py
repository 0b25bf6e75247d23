"""Which models there are, which is the default, and what callers from outside may know of them."""

from __future__ import annotations

import httpx
import pytest

from conftest import hosted
from drw.api.models.v1.discovery_pb2 import GetModelRequest, ListModelsRequest, Model, ResolveModelRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import NotFound
from drw.kernel.host import Host
from drw.kernel.settings import ConfigError, Layers

SMALL = {"engine": "llama_cpp", "base_url": "unix:/tmp/e.sock", "context_length": 2048, "licence": "Apache-2.0"}
LARGE = {"engine": "openai", "base_url": "https://upstream.example/v1/", "api_key_variable": "UPSTREAM_KEY"}
VECTORS = {"kind": "embedding", "engine": "onnx", "dimensions": 384}


def with_models(profile, models, **more):
    return profile.model_copy(update={"services": {"discovery": {"models": models, **more}}})


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_models_are_found_by_id_and_by_default(profile, how):
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


async def test_rest_shows_neither_addresses_nor_where_models_resolve(profile):
    async with hosted(with_models(profile, {"large": LARGE}), ["discovery"]) as host:
        headers = {"x-drw-key": "key_1", "x-drw-scopes": "models:read"}
        transport = httpx.ASGITransport(app=host.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=headers) as web:
            answer = await web.get("/api/v1/models")
            assert answer.json()["models"][0]["id"] == "large"
            assert "upstream.example" not in answer.text
            assert "UPSTREAM_KEY" not in answer.text
            assert (await web.get("/api/v1/models/large")).json()["default"] is True


async def test_one_line_of_the_operators_file_adds_a_model_and_makes_it_the_default(profile, tmp_path):
    shipped, own = tmp_path / "shipped.toml", tmp_path / "own.toml"
    shipped.write_text(
        f'name = "t"\ndata = "{tmp_path}"\npostgres = ""\nvalkey = ""\n'
        '[services.discovery]\ndefault_model = "small"\n'
        '[services.discovery.models.small]\nengine = "llama_cpp"\nbase_url = "unix:/tmp/e.sock"\n'
    )
    own.write_text(
        'services.discovery.models.gpt-4o = { engine = "openai", base_url = "https://upstream.example/v1", '
        'api_key_variable = "OPENAI_API_KEY", default = true }'
    )
    sections = Layers([shipped, own], {}).profile().services
    async with hosted(profile.model_copy(update={"services": sections}), ["discovery"]) as host:
        assert (await host.client(DiscoveryClient).get_model(GetModelRequest())).id == "gpt-4o"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"models": {"a": SMALL, "b": LARGE}}, "default_model must name one of the chat models: a, b"),
        ({"models": {"a": SMALL}, "default_model": "c"}, "default_model is 'c'; the chat models are: a"),
        ({"models": {"a": SMALL | {"default": True}, "b": LARGE | {"default": True}}}, "now a and b have it"),
        ({"models": {"a": {"engine": "openai"}}}, "base_url is ''; it must be like"),
        ({"models": {"a": SMALL | {"engine": "abacus"}}}, "models.a.engine: Input should be 'llama_cpp'"),
        ({"models": {"a": SMALL | {"colour": "red"}}}, "models.a.colour: Extra inputs are not permitted"),
        ({"models": {"a": VECTORS | {"default": True}}}, "only a chat model can be the default"),
        ({"models": {"a b": SMALL}}, "'a b' cannot be the id of a model"),
    ],
)
async def test_wrong_settings_say_what_would_be_right(profile, section, said):
    host = Host(profile.model_copy(update={"services": {"discovery": section}}), "test", ["discovery"])
    with pytest.raises(ConfigError) as caught:
        await host.start()
    assert said in caught.value.message
    await host.stop()
