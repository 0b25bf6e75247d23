"""Headers that cross the boundary to and from a third-party upstream, on a real Envoy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path

from agent.data_plane import DataPlaneHarness
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Route, Share
from drw.gateway.load_balancer.settings import UpstreamSettings
from drw.gateway.load_balancer.upstreams import from_profile
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.runtime.settings import ServiceAddress
from drw.routing.request_matching import is_platform_process
from support.json_types import JsonObject
from support.parts import until

CLIENT_HEADERS = {
    "cookie": "session=1",
    "x-model": "llama",
    "proxy-authorization": "Basic x",
    "x-drw-org": "forged",
    "x-real-ip": "10.0.0.9",
    "x-mine": "kept",
}
UPSTREAM_HEADERS = {
    "x-drw-model": "forged",
    "X-DRW-Key": "forged",
    "x-envoy-upstream-service-time": "forged",
    "x-trace-id": "forged",
    "x-request-id": "forged",
    "x-ratelimit-remaining": "forged",
    "ratelimit-policy": "forged",
    "access-control-allow-origin": "forged",
    "alt-svc": "forged",
    "x-theirs": "kept",
}
ANONYMOUS = "access-anonymous.log"
REMOVED_HEADERS = {
    "authorization",
    "cookie",
    "x-model",
    "x-api-key",
    "proxy-authorization",
    "x-real-ip",
    "x-forwarded-for",
}


class ThirdParty:
    """Records the request headers and answers with headers that only the gateway may set."""

    def __init__(self) -> None:
        self.received: dict[str, str] = {}
        self.status = 200
        self.address = ""
        self._server = HttpServer(Starlette(routes=[Path("/{path:path}", self._answer, methods=["GET", "POST"])]))

    async def start(self) -> ThirdParty:
        self.address = await self._server.start("127.0.0.1:0")
        return self

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _answer(self, request: Request) -> Response:
        self.received = dict(request.headers)
        answer = JSONResponse({}, self.status, UPSTREAM_HEADERS)
        answer.set_cookie("session", "forged")
        return answer


@pytest.fixture
async def third_party() -> AsyncIterator[ThirdParty]:
    """A running third-party upstream."""
    double = await ThirdParty().start()
    yield double
    await double.stop()


ROUTES = {
    "plain": Route(upstream="far"),
    "pass": Route(upstream="far", pass_through=True),
    "model": Route(upstream="far", pass_through=True, models=["llama"]),
    "header": Route(upstream="far", pass_through=True, models=["llama"], model_header=True),
    "split": Route(split=[Share(upstream="far", weight=1), Share(upstream="other", weight=1)]),
    "fallback": Route(upstream="gone", fallbacks=["far"]),
    "mixed": Route(upstream="rag", fallbacks=["far"]),
}


def routes(route_names: Iterable[str]) -> Iterator[Route]:
    for route_name in route_names:
        route = Route(name=route_name, path=f"/v1/{route_name}", methods=["POST"], scopes=["models:invoke"])
        route.MergeFrom(ROUTES[route_name])
        yield with_defaults(route)


@pytest.mark.parametrize("key_header", ["authorization", "x-api-key"])
@pytest.mark.parametrize("credential", ["", "far"])
async def test_third_party_gets_no_caller_identity_and_cannot_forge_gateway_headers(
    data_plane: DataPlaneHarness, third_party: ThirdParty, credential: str, key_header: str
) -> None:
    secret = data_plane.plane.folder / "credentials" / "far"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("sk-far")
    # All upstreams of a fallback chain share a credential.
    route_names = ROUTES.keys() - ({"mixed"} if credential else set())
    upstreams = [
        Upstream(name="far", addresses=[third_party.address], credential=credential),
        Upstream(name="other", addresses=[third_party.address], credential=credential),
        Upstream(name="gone", addresses=["127.0.0.1:1"], credential=credential),
    ]
    assert (await data_plane.apply(routes=list(routes(route_names)), upstreams=upstreams)).error == ""
    request_ids = []
    key = data_plane.sign("key_1", "models:invoke")
    headers = CLIENT_HEADERS | {key_header: f"Bearer {key}" if key_header == "authorization" else key}
    async with data_plane.client() as client:
        for route_name in sorted(route_names):
            answer = await client.post(f"/v1/{route_name}", json={"model": "llama"}, headers=headers)
            assert answer.status_code == 200, (route_name, answer.text)
            assert third_party.received["x-mine"] == "kept"
            assert third_party.received.pop("authorization", "") == (
                f"Bearer {secret.read_text()}" if credential else ""
            ), route_name
            leaked = [
                name
                for name in third_party.received
                if name in REMOVED_HEADERS or name.startswith(("x-drw-", "x-envoy-"))
            ]
            assert leaked == [], route_name
            assert answer.headers["x-theirs"] == "kept"
            assert "forged" not in str(answer.headers), route_name
            line = await wait_for_line(data_plane, answer.headers["x-request-id"])
            assert (line["org"], line["desk"], line["key"]) == ("local", "research", "key_1"), route_name
            request_ids.append(answer.headers["x-request-id"])
    async with data_plane.client() as anonymous:  # its log line follows those of all earlier requests
        last = (await anonymous.get("/v1/models")).headers["x-request-id"]
    await wait_for_line(data_plane, last, ANONYMOUS)
    anonymous_log = (data_plane.plane.folder / ANONYMOUS).read_text()
    assert [request_id for request_id in request_ids if request_id in anonymous_log] == []


async def wait_for_line(data_plane: DataPlaneHarness, request_id: str, name: str = "access.log") -> JsonObject:
    log = data_plane.plane.folder / name

    async def line_is_logged() -> bool:
        return log.exists() and request_id in log.read_text()

    await until(line_is_logged, "the line of the log")
    return next(line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == request_id)


async def test_metrics_are_served_only_for_platform_processes(
    data_plane: DataPlaneHarness, third_party: ThirdParty
) -> None:
    assert (await data_plane.apply(upstreams=[Upstream(name="far", addresses=[third_party.address])])).error == ""
    async with data_plane.client(data_plane.sign("key_1", "platform:read")) as client:
        assert (await client.get("/metrics/far")).status_code == 404
        answer = await client.get("/metrics/models", headers={"cookie": "a=b"})
    assert third_party.received == {}
    assert answer.json()["headers"]["x-drw-key"] == "key_1"


def test_platform_process_moved_by_settings_stays_a_platform_process() -> None:
    processes = {"rag": ServiceAddress(services=("documents",), grpc="unix:/g", http="unix:/h")}
    overrides = {
        "rag": UpstreamSettings(addresses=("10.0.0.1:80",)),
        "far": UpstreamSettings(addresses=("10.0.0.2:80",)),
    }
    assert {upstream.name: is_platform_process(upstream) for upstream in from_profile(processes, overrides)} == {
        "far": False,
        "rag": True,
    }
