"""What crosses the boundary to an upstream that is not the platform's own, in both directions, on a real Envoy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path

from agent.data_plane import Fed
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Route, Share
from drw.gateway.load_balancer.settings import UpstreamSettings
from drw.gateway.load_balancer.upstreams import from_profile
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.rpc.http_server import HttpServer
from drw.kernel.runtime.settings import ServiceAddress
from drw.routing.request_matching import is_platform_process
from support.parts import until

SENT = {
    "cookie": "session=1",
    "x-model": "llama",
    "x-api-key": "client",
    "proxy-authorization": "Basic x",
    "x-drw-org": "forged",
    "x-real-ip": "10.0.0.9",
    "x-mine": "kept",
}
HOSTILE = {
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
SECRET = {"authorization", "cookie", "x-model", "x-api-key", "proxy-authorization", "x-real-ip", "x-forwarded-for"}


class ThirdParty:
    """Keeps the headers that it gets, and sets headers that only the gateway may set."""

    def __init__(self) -> None:
        self.got: dict[str, str] = {}
        self.status = 200
        self.where = ""
        self._server = HttpServer(Starlette(routes=[Path("/{path:path}", self._answer, methods=["GET", "POST"])]))

    async def start(self) -> ThirdParty:
        self.where = await self._server.start("127.0.0.1:0")
        return self

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _answer(self, request: Request) -> Response:
        self.got = dict(request.headers)
        answer = JSONResponse({}, self.status, HOSTILE)
        answer.set_cookie("session", "forged")
        return answer


@pytest.fixture
async def party() -> AsyncIterator[ThirdParty]:
    """A third party's upstream, running."""
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


def records(kinds: Iterable[str]) -> Iterator[Route]:
    for kind in kinds:
        route = Route(name=kind, path=f"/v1/{kind}", methods=["POST"], scopes=["models:invoke"])
        route.MergeFrom(ROUTES[kind])
        yield with_defaults(route)


@pytest.mark.parametrize("credential", ["", "far"])
async def test_a_third_party_sees_no_caller_and_speaks_for_itself_alone(
    fed: Fed, party: ThirdParty, credential: str
) -> None:
    secret = fed.plane.folder / "credentials" / "far"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("sk-far")
    kinds = ROUTES.keys() - ({"mixed"} if credential else set())  # all of a chain have the same credential
    made = [
        Upstream(name="far", addresses=[party.where], credential=credential),
        Upstream(name="other", addresses=[party.where], credential=credential),
        Upstream(name="gone", addresses=["127.0.0.1:1"], credential=credential),
    ]
    assert (await fed.want(records=list(records(kinds)), made=made)).error == ""
    asked = []
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        for kind in sorted(kinds):
            answer = await client.post(f"/v1/{kind}", json={"model": "llama"}, headers=SENT)
            assert answer.status_code == 200, (kind, answer.text)
            assert party.got["x-mine"] == "kept"
            assert party.got.pop("authorization", "") == (f"Bearer {secret.read_text()}" if credential else ""), kind
            seen = [name for name in party.got if name in SECRET or name.startswith(("x-drw-", "x-envoy-"))]
            assert seen == [], kind
            assert answer.headers["x-theirs"] == "kept"
            assert "forged" not in str(answer.headers), kind
            line = await logged(fed, answer.headers["x-request-id"])
            assert (line["org"], line["desk"], line["key"]) == ("local", "research", "key_1"), kind
            asked.append(answer.headers["x-request-id"])
    async with fed.client() as nobody:  # whose line comes after all that might be there before it
        last = (await nobody.get("/v1/models")).headers["x-request-id"]
    await logged(fed, last, ANONYMOUS)
    anonymous = (fed.plane.folder / ANONYMOUS).read_text()
    assert [request_id for request_id in asked if request_id in anonymous] == []


async def logged(fed: Fed, request_id: str, name: str = "access.log") -> dict:
    log = fed.plane.folder / name

    async def written() -> bool:
        return log.exists() and request_id in log.read_text()

    await until(written, "the line of the log")
    return next(line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == request_id)


async def test_only_processes_of_the_platform_have_metrics_that_clients_read(fed: Fed, party: ThirdParty) -> None:
    assert (await fed.want(made=[Upstream(name="far", addresses=[party.where])])).error == ""
    async with fed.client(fed.sign("key_1", "platform:read")) as client:
        assert (await client.get("/metrics/far")).status_code == 404
        answer = await client.get("/metrics/models", headers={"cookie": "a=b"})
    assert party.got == {}
    assert answer.json()["headers"]["x-drw-key"] == "key_1"


def test_a_process_that_the_settings_move_is_still_one_of_the_platform() -> None:
    processes = {"rag": ServiceAddress(services=("documents",), grpc="unix:/g", http="unix:/h")}
    more = {"rag": UpstreamSettings(addresses=("10.0.0.1:80",)), "far": UpstreamSettings(addresses=("10.0.0.2:80",))}
    assert {upstream.name: is_platform_process(upstream) for upstream in from_profile(processes, more)} == {
        "far": False,
        "rag": True,
    }
