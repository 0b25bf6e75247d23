"""The translation from a configuration to Envoy's files, compared with golden files.

After an intended change run `UPDATE_GOLDEN=1 pytest tests/agent/xds/test_translation.py` and review the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from drw.agent import clients
from drw.agent.delivery import envoy
from drw.agent.delivery.credentials import EnvoyCredentials
from drw.agent.delivery.files import ConfigFiles
from drw.agent.native_filter import NATIVE_FILTER, library
from drw.agent.xds import overload, routes
from drw.agent.xds.http_filters import filters
from drw.agent.xds.translation import KINDS, BadConfiguration, EdgeOptions, bootstrap, static_configuration, translate
from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.api.gateway.v1.load_balancer_pb2 import Upstream, Upstreams
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits
from drw.api.gateway.v1.request_router_pb2 import Configuration, HeaderMatch, Route, Routes, Share
from drw.kernel.runtime.settings import ConfigError, DataPlane, Profile
from drw.routing.request_matching import by_precedence, is_below

GOLDEN = Path(__file__).parent / "golden"
JWKS = (
    '{"keys": [{"alg": "ES256", "crv": "P-256", "kid": "k1", "kty": "EC", "use": "sig",'
    ' "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'
)


def edge_options(folder: Path = Path("/data")) -> EdgeOptions:
    plane = DataPlane(listen="127.0.0.1:8080", folder=folder, admin="unix:/data/admin.sock")
    return EdgeOptions(plane, "http://127.0.0.1:4318")


def desired_state() -> Configuration:
    return Configuration(
        version="v1",
        credentials=Credentials(issuer="drw", audience="drw-gateway", jwks=JWKS, revoked=["key_2", "key_1"]),
        limits=Limits(default_requests_per_minute=600, limits=[Limit(key="key_3", org="acme", requests_per_minute=5)]),
        upstreams=Upstreams(
            upstreams=[
                Upstream(
                    name="models",
                    addresses=["unix:/run/m"],
                    when_gone="the models services do not answer",
                    origin="profile",
                ),
                Upstream(
                    name="rag",
                    addresses=["rag-0.rag:80", "rag-1.rag:80"],
                    when_gone="rag does not answer",
                    origin="settings",
                    services=["documents"],
                ),
            ]
        ),
        routes=Routes(
            routes=[
                Route(name="keys", path="/api/v1/keys", upstream="models"),
                Route(
                    name="chat",
                    path="/v1/chat/completions",
                    methods=["POST"],
                    scopes=["models:invoke"],
                    upstream="models",
                    max_body_bytes=1024,
                    idle_seconds=60,
                ),
                Route(name="files", path="/v1/files", methods=["GET"], scopes=["a:b", "c:d"], upstream="rag"),
            ]
        ),
        blocks=[
            Block(subject="KEY", org="acme", name="key_4", reason="KILLED"),
            Block(subject="KEY", org="acme", name="key_5", reason="TOKENS"),
            Block(subject="DESK", org="acme", name="trading", reason="MONEY"),
            Block(subject="ORG", org="poor", reason="MONEY"),
            Block(subject="MODEL", name="large", reason="KILLED"),
            Block(subject="MODEL", org="acme", name="small", reason="KILLED"),
        ],
    )


def pass_through_state() -> Configuration:
    """Return the desired state with additional pass-through routes to third-party upstreams."""
    state = desired_state()
    state.upstreams.upstreams.add(
        name="vllm",
        addresses=["10.0.0.1:8000", "10.0.0.2:8000"],
        balancing="ring_hash",
        tls=True,
        credential="openai",
        connect_ms=250,
        eject_after=5,
        eject_on_errors=True,
        when_gone="vllm does not answer",
    )
    state.upstreams.upstreams.add(name="spare", addresses=["10.0.0.3:8000"], credential="openai", eject_after=5)
    state.routes.routes.add(
        name="llama",
        path="/v1/chat/completions",
        methods=["POST"],
        scopes=["models:invoke"],
        models=["llama", "llama-large"],
        tenants=["acme/research"],
        upstream="vllm",
        fallbacks=["spare"],
        affinity=["header:x-session-id", "body:user", "key"],
        pass_through=True,
        upstream_model="meta/llama",
        max_body_bytes=4096,
        first_byte_ms=2500,
        total_ms=60_000,
    )
    state.routes.routes.add(
        name="split",
        path="/v1/embeddings",
        methods=["POST"],
        scopes=["models:invoke"],
        headers=[HeaderMatch(name="x-lab", prefix="q"), HeaderMatch(name="x-any")],
        split=[Share(upstream="vllm", weight=3), Share(upstream="spare", weight=1)],
        affinity=["key"],
        pass_through=True,
    )
    return state


@pytest.mark.parametrize("kind", ["clusters", "routes"])
def test_pass_through_configuration_matches_the_golden_files(kind: str) -> None:
    assert_golden(f"passing_{kind}", translate(pass_through_state(), edge_options())[kind])


@pytest.mark.parametrize("kind", [*KINDS, "bootstrap"])
def test_configuration_matches_the_golden_files(kind: str) -> None:
    assert_golden(
        kind, bootstrap(edge_options()) if kind == "bootstrap" else translate(desired_state(), edge_options())[kind]
    )


def assert_golden(name: str, generated: object) -> None:
    file = GOLDEN / f"{name}.json"
    text = json.dumps(generated, indent=2, sort_keys=True) + "\n"
    for generated, name in (
        (str(library()), "native_filter.so of this platform"),
        (clients.module_base64(), "clients.wasm in base64"),
    ):
        text = text.replace(generated, name)
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


async def test_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    overload.write_fill_level(edge_options(tmp_path).pressure, 0)
    await envoy.validate(static_configuration(desired_state(), edge_options(tmp_path)))
    EnvoyCredentials(edge_options(tmp_path)).refresh(pass_through_state().upstreams.upstreams)
    await envoy.validate(static_configuration(pass_through_state(), edge_options(tmp_path)))


async def test_envoy_names_the_error_in_an_invalid_configuration(tmp_path: Path) -> None:
    overload.write_fill_level(edge_options(tmp_path).pressure, 0)
    broken = static_configuration(desired_state(), edge_options(tmp_path))
    broken["static_resources"]["clusters"][0]["speed"] = 3
    with pytest.raises(BadConfiguration, match="speed"):
        await envoy.validate(broken)


def test_empty_deny_list_is_valid(tmp_path: Path) -> None:
    state = desired_state()
    del state.credentials.revoked[:], state.blocks[:]
    (generated,) = translate(state, edge_options())["blocked"]
    assert "matcher_tree" not in generated["typed_config"]["matcher"]


def test_configuration_is_independent_of_record_order() -> None:
    other = desired_state()
    other.credentials.revoked.reverse()
    orders: tuple[Any, ...] = (other.routes.routes, other.limits.limits, other.blocks)
    for repeated in orders:
        reversed_items = list(repeated)[::-1]
        del repeated[:]
        repeated.extend(reversed_items)
    assert translate(other, edge_options()) == translate(desired_state(), edge_options())


def test_every_route_configures_the_native_filter() -> None:
    (table,) = translate(desired_state(), edge_options())["routes"]
    for entry in routes.entries(table["virtual_hosts"][0]):
        assert NATIVE_FILTER in entry["typed_per_filter_config"], entry["name"]


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/chat", "/v1/chat/x?y=/v1/chat/completions", "/v1/chat/completions", "/v1/chats", "/v1x", "/"],
)
def test_path_matcher_tries_exactly_the_routes_at_or_above_the_path(path: str) -> None:
    state = desired_state()
    del state.routes.routes[:]
    for name in ("/v1", "/v1/chat", "/v1/chat/completions", "/v1/chats", "/other"):
        state.routes.routes.add(name=name, path=name, upstream="models", methods=["GET"])
    (table,) = translate(state, edge_options())["routes"]
    matcher = table["virtual_hosts"][0]["matcher"]
    paths = matcher["matcher_tree"]["prefix_match_map"]["map"]
    longest = max((prefix for prefix in paths if path.startswith(prefix)), key=len, default="")
    tried = (paths[longest] if longest else matcher["on_no_match"])["action"]["typed_config"]["routes"]
    expected = [
        route.name for route in by_precedence(state.routes.routes) if is_below(path.partition("?")[0], route.path)
    ]
    matched = [
        route["name"]
        for route in tried
        if is_below(path.partition("?")[0], route["match"].get("path_separated_prefix", "-"))
    ]
    assert [name for name in matched if name.startswith("/")] == expected
    assert matched.count("wrong_method") == len(expected)
    assert tried[-1]["name"] == "nothing"
    assert len(tried) < len(routes.entries(table["virtual_hosts"][0]))


def test_identity_filter_is_enabled_only_with_issuers_or_certificates() -> None:
    state = desired_state()
    for expected in (False, True):
        (table,) = translate(state, edge_options())["routes"]
        assert (filters.IDENTITY in table["virtual_hosts"][0].get("typed_per_filter_config", {})) is expected
        state.credentials.certificates.add(name="ci", san="spiffe://firm/ci", org="acme", desk="research")


def test_reroute_filter_is_enabled_only_with_tenant_routes() -> None:
    for state, expected in ((desired_state(), False), (pass_through_state(), True)):
        (table,) = translate(state, edge_options())["routes"]
        assert (filters.REROUTE in table["virtual_hosts"][0].get("typed_per_filter_config", {})) is expected


def test_only_changed_files_are_written(tmp_path: Path) -> None:
    files = ConfigFiles(edge_options(tmp_path))
    assert not files.complete()
    assert files.write(translate(desired_state(), edge_options(tmp_path)), "v1") == KINDS
    assert files.complete()
    assert files.write(translate(desired_state(), edge_options(tmp_path)), "v2") == ()
    state = desired_state()
    state.limits.limits[0].requests_per_minute = 6
    assert files.write(translate(state, edge_options(tmp_path)), "v3") == ("native_filter",)
    assert files.versions() == dict.fromkeys(KINDS, "v1") | {"native_filter": "v3"}


def test_cluster_is_removed_after_the_routes_that_name_it(tmp_path: Path) -> None:
    def cluster_names() -> list[str]:
        return [
            cluster["name"] for cluster in json.loads(edge_options(tmp_path).file("clusters").read_text())["resources"]
        ]

    files, state = ConfigFiles(edge_options(tmp_path)), desired_state()
    files.write(translate(state, edge_options(tmp_path)), "v1")
    del state.routes.routes[2], state.upstreams.upstreams[1]
    assert "routes" in files.write(translate(state, edge_options(tmp_path)), "v2")
    assert cluster_names() == ["models", "traces", "rag"]
    files.write(translate(state, edge_options(tmp_path)), "v3")
    assert cluster_names() == ["models", "traces"]


def test_clusters_of_splits_and_fallbacks_are_removed_after_their_routes(tmp_path: Path) -> None:
    def cluster_names() -> set[str]:
        resources = json.loads(edge_options(tmp_path).file("clusters").read_text())["resources"]
        return {cluster["name"] for cluster in resources} - {"models", "traces"}

    files, state = ConfigFiles(edge_options(tmp_path)), pass_through_state()
    files.write(translate(state, edge_options(tmp_path)), "v1")
    assert cluster_names() == {"rag", "vllm", "spare", "vllm>spare"}
    for route in list(state.routes.routes)[::-1]:
        if route.pass_through:
            state.routes.routes.remove(route)
    for upstream in list(state.upstreams.upstreams)[::-1]:
        if upstream.name in ("vllm", "spare"):
            state.upstreams.upstreams.remove(upstream)
    files.write(translate(state, edge_options(tmp_path)), "v2")
    assert cluster_names() == {"rag", "vllm", "spare", "vllm>spare"}
    files.write(translate(state, edge_options(tmp_path)), "v3")
    assert cluster_names() == {"rag"}


def test_invalid_data_plane_settings_are_rejected(profile: Profile) -> None:
    with pytest.raises(ConfigError, match="no table"):
        EdgeOptions.of(profile)
    invalid = profile.model_copy(update={"data_plane": edge_options().plane, "otlp_endpoint": "https://collector"})
    with pytest.raises(ConfigError, match="otlp_endpoint is 'https://collector'"):
        EdgeOptions.of(invalid)


def test_envoy_command_uses_the_bootstrap_of_the_agent(profile: Profile, tmp_path: Path) -> None:
    with_edge = profile.model_copy(update={"data_plane": edge_options(tmp_path).plane})
    assert not envoy.ready_file(with_edge).exists()
    ConfigFiles(EdgeOptions.of(with_edge)).write_bootstrap()
    assert envoy.ready_file(with_edge).exists()
    assert str(envoy.ready_file(with_edge)) in envoy.command(with_edge)
    assert "--reject-unknown-dynamic-fields" in envoy.command(with_edge)
