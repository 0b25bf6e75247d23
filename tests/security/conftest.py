"""A running gateway for all of these tests, and a client of all services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from agent.data_plane import GatewayHarness, running, with_data_plane
from agent.doubles import DoubleCollector
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.runtime.settings import Profile
from drw.local.preflight import free_port
from fuzzing.services import KEY, Served, serving_in_thread
from security.gateway_probe import GatewayProbe, RecordingModels
from support.hosting import with_secret
from support.parts import new_database


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def probe(
    postgres: Path, valkey: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayProbe]:
    """A running gateway with recorded upstream requests and traces."""
    collector = DoubleCollector()
    traces = HttpServer(collector.app)
    address = await traces.start(f"127.0.0.1:{free_port('127.0.0.1')}")
    data = tmp_path_factory.mktemp("gate")
    profile = Profile(
        name="test",
        data=data,
        postgres=new_database(postgres),
        valkey=f"{valkey}?db=9999",
        otlp_endpoint=f"http://{address}",
    )
    gateway = GatewayHarness(with_data_plane(with_secret(profile), folder))
    gateway.models = models = RecordingModels()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drw.agent.agent.RETRY_SECONDS", 0.05)
        async with running(gateway):
            secret = await gateway.create_key("models:read", "models:invoke", "documents:read")
            yield GatewayProbe(gateway, models, collector, secret)
    await traces.stop(0)


@pytest.fixture(scope="session")
def served(postgres: Path, valkey: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All services, with a desk that owns one object of each kind."""
    with serving_in_thread(postgres, valkey, folder, tmp_path_factory.mktemp("fuzz")) as served:
        yield served


@pytest.fixture
def data_plane_profile(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with four processes and a data plane; nothing runs yet."""
    monkeypatch.setattr("drw.agent.agent.RETRY_SECONDS", 0.05)
    return with_data_plane(profile, folder)


@pytest.fixture
def desk(served: Served) -> Iterator[httpx.Client]:
    """A client of all services that acts for the desk that owns one object of each kind."""
    with httpx.Client(base_url=served.url, headers=KEY, timeout=30) as http:
        yield http
