"""Routes to services that are processes of their own and share a path prefix, on a real Envoy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent.data_plane import DataPlaneHarness, running
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.runtime.settings import Profile, ServiceAddress


def double_service(name: str) -> HttpServer:
    """Return a double that answers each path with its name."""

    async def answer(_: Request) -> Response:
        return PlainTextResponse(name)

    return HttpServer(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])]))


@pytest.fixture
async def data_plane(data_plane_profile: Profile) -> AsyncIterator[DataPlaneHarness]:
    """A data plane in front of doubles of state and orchestration, instead of one workflow process."""
    processes = {name: address for name, address in data_plane_profile.processes.items() if name != "workflow"}
    async with AsyncExitStack() as stack:
        for name in ("state", "orchestration"):
            server = double_service(name)
            address = await server.start("127.0.0.1:0")
            stack.push_async_callback(server.stop, 0)
            processes[name] = ServiceAddress(services=(name,), grpc="127.0.0.1:9", http=address)
        profile = data_plane_profile.model_copy(update={"processes": processes})
        yield await stack.enter_async_context(running(DataPlaneHarness(profile)))


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/api/v1/runs", "orchestration"),
        ("/api/v1/runs/run_1", "orchestration"),
        ("/api/v1/runs/run_1:cancel", "orchestration"),
        ("/api/v1/runs/run_1:watch", "state"),
        ("/api/v1/runs/run_1:watch?after=3", "state"),
        ("/api/v1/runs/run_1:watch/more", "orchestration"),
        ("/api/v1/runs/a/b:watch", "orchestration"),
        ("/api/v1/runs?x=/a:watch", "orchestration"),
    ],
)
async def test_request_reaches_the_service_of_its_method(data_plane: DataPlaneHarness, path: str, service: str) -> None:
    async with data_plane.client(data_plane.sign("key_1", "workflows:read")) as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.text) == (200, service)
    async with data_plane.client(data_plane.sign("key_2", "documents:read")) as client:
        assert (await client.get(path)).status_code == 403
