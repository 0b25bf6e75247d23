"""Harnesses that run a real Envoy with its agent, the gateway services and a double of the model services."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import psycopg

from agent.doubles import DoubleModels, DoubleRouter
from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.agent import Agent
from drw.agent.delivery import envoy
from drw.agent.reporting.health import UpstreamHealth
from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Credentials, RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import Upstream as UpstreamRecord
from drw.api.gateway.v1.load_balancer_pb2 import Upstreams
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits
from drw.api.gateway.v1.request_router_pb2 import (
    Configuration,
    ConfigurationReport,
    Routes,
)
from drw.api.gateway.v1.request_router_pb2 import Route as RouteRecord
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.gateway.authentication.keys.encryption import EnvelopeEncryption
from drw.gateway.authentication.keys.signing import Claims, Signer, jwks, new_private_key
from drw.gateway.load_balancer.settings import UpstreamSettings as Upstream
from drw.gateway.load_balancer.upstreams import from_profile, with_records
from drw.gateway.request_router.desired_state import assemble
from drw.gateway.request_router.routes.table import RouteSettings
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.rpc.transport import Channels, Server
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import DataPlane, Profile, ServiceAddress, Tls
from drw.local.first_key import ensure_home
from drw.local.preflight import free_port
from support.hosting import SECRET, with_secret
from support.json_types import Json, JsonObject
from support.parts import until

HarnessT = TypeVar("HarnessT", bound="GatewayHarness")

GATEWAY_SERVICES = ("authentication", "rate_limiting", "load_balancer", "request_router")
RAG_SERVICES = ("documents", "embedding", "vector_store", "retrieval")
OPERATOR = Principal("local", "research", "operator", frozenset(SCOPES))


class GatewayHarness:
    """Envoy, the agent, the gateway services and a double of the models; each can be stopped and started."""

    def __init__(self, profile: Profile) -> None:
        self.profile = with_secret(profile)
        self.url = f"http://{envoy.data_plane_settings(profile).listen}"
        self.models = DoubleModels()
        self._agent: asyncio.Task[None] | None = None
        self._envoy: subprocess.Popen[bytes] | None = None
        self._upstream: HttpServer | None = None
        self._host: Host | None = None
        self._channels = Channels()

    @property
    def host(self) -> Host:
        """The host of the running gateway services."""
        assert self._host is not None, "the gateway services do not run"
        return self._host

    @property
    def plane(self) -> DataPlane:
        """The settings of the data plane."""
        return envoy.data_plane_settings(self.profile)

    @property
    def tls(self) -> Tls:
        """The settings of the TLS listener."""
        assert self.plane.tls is not None, "the data plane has no TLS listener"
        return self.plane.tls

    async def start(self) -> None:
        await self.start_gateway()
        await self.start_models()
        self.start_agent()
        await self.start_envoy()
        await self.wait_until_applied()

    async def start_gateway(self) -> None:
        self._host = Host(self.profile, "gateway")
        await self.host.start()
        with acting_for(OPERATOR):
            await ensure_home(self.host.client(AuthenticationClient))

    async def stop_gateway(self) -> None:
        if self._host:
            await self._host.stop(grace=0)
        self._host = None

    async def start_models(self) -> None:
        self._upstream = HttpServer(self.models.app)
        await self._upstream.start(self.profile.processes["models"].http)

    async def stop_models(self) -> None:
        if self._upstream:
            await self._upstream.stop(0)
        self._upstream = None

    def start_agent(self) -> None:
        router = self._channels.client(RequestRouterClient, self.profile.address_of("request_router").grpc)
        self._agent = asyncio.create_task(Agent(self.profile, router).run())

    async def stop_agent(self) -> None:
        if self._agent:
            self._agent.cancel()
            with suppress(asyncio.CancelledError):
                await self._agent
        self._agent = None

    async def start_envoy(self) -> None:
        async def bootstrap_is_written() -> bool:
            return envoy.ready_file(self.profile).exists()

        await until(bootstrap_is_written, "the bootstrap of Envoy")
        self.launch_envoy()
        await until(self.is_healthy, "Envoy")

    def launch_envoy(self) -> None:
        with (self.profile.data / "envoy.log").open("ab") as log:
            self._envoy = subprocess.Popen(envoy.command(self.profile), stdout=log, stderr=log)

    def signal_envoy(self, number: int) -> None:
        assert self._envoy is not None
        self._envoy.send_signal(number)

    async def stop_envoy(self) -> None:
        if self._envoy:
            self._envoy.terminate()
            await asyncio.to_thread(self._envoy.wait, 10)
        self._envoy = None

    async def stop(self) -> None:
        await self.stop_envoy()
        await self.stop_agent()
        await self.stop_models()
        await self.stop_gateway()
        await self._channels.close()

    async def is_healthy(self) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.url}/healthz")).text == "ok\n"
        except httpx.TransportError:
            return False

    async def router_status(self) -> ServiceStatus:
        return next(s for s in (await self.host.status()).services if s.name == "request_router")

    async def desired_version(self) -> str:
        """Return the configuration version that the router wants the data plane to run."""
        return (await self.router_status()).detail.partition(";")[0].removeprefix("version ")

    async def wait_until_applied(self, other_than: str = "") -> None:
        """Wait until the data plane runs the desired version, which must differ from `other_than`."""

        async def newest_is_applied() -> bool:
            status, version = await self.router_status(), await self.desired_version()
            return version != other_than and status.state == ServiceStatus.READY and f"runs {version}" in status.detail

        await until(newest_is_applied, "the newest version")

    async def create_key(self, *scopes: str, requests_per_minute: int = 0) -> str:
        """Create a key and return its secret."""
        request = CreateKeyRequest(name="test", scopes=scopes, requests_per_minute=requests_per_minute)
        with acting_for(OPERATOR):
            created = await self.host.client(AuthenticationClient).create_key(request)
        return created.secret

    async def revoke(self, key: str) -> None:
        """Revoke a key and wait until the data plane enforces it."""
        before = await self.desired_version()
        with acting_for(OPERATOR):
            await self.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=key))
        await self.wait_until_applied(before)

    def signer(self, issuer: str = "drw", audience: str = "drw-gateway") -> Signer:
        """Return a signer with the key of the service, for keys that the service would not issue."""
        query = "select kid, private_key from authentication.signing_key order by signs_from"
        with psycopg.connect(self.profile.postgres) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return Signer(EnvelopeEncryption(SECRET).decrypt(*row), issuer, audience)

    def client(self, secret: str = "", **options: Json) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, **options)

    def admin(self) -> EnvoyAdmin:
        return EnvoyAdmin(envoy.data_plane_settings(self.profile).admin)

    async def envoy_admin_responds(self) -> bool:
        try:
            await self.admin().rejections()
        except Unavailable:
            return False
        return True


class DataPlaneHarness(GatewayHarness):
    """Envoy and the agent without the gateway services: a double of the request router delivers the configuration."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.router = DoubleRouter()
        self.signing = Signer(new_private_key(), "drw", "drw-gateway")
        self.upstream_health = UpstreamHealth(self.admin())
        self._server: Server | None = None

    async def start_gateway(self) -> None:
        self._server = Server([self.router])
        await self._server.start(self.profile.address_of("request_router").grpc)

    async def stop_gateway(self) -> None:
        if self._server:
            await self._server.stop(0)
        self._server = None

    async def start(self) -> None:
        await self.start_gateway()
        await self.start_models()
        self.start_agent()
        report = asyncio.create_task(self.apply())
        await self.start_envoy()
        assert (await report).error == ""

    def configuration(
        self,
        *,
        static_routes: Sequence[RouteSettings] = (),
        static_upstreams: Mapping[str, Upstream] | None = None,
        routes: Sequence[RouteRecord] = (),
        upstreams: Sequence[UpstreamRecord] = (),
        default_limit: int = 1_000_000,
        key_limits: Mapping[str, int] | None = None,
        revoked: Sequence[str] = (),
        blocks: Sequence[Block] = (),
        **credentials: Json,
    ) -> Configuration:
        """Return a configuration with these records beside the settings; `credentials`: issuers, certificates, desks.

        `static_routes` and `static_upstreams` are those of the settings, `routes` and `upstreams` those of the API.
        """
        own_credentials: JsonObject = {"issuer": "drw", "audience": "drw-gateway", "jwks": jwks([self.signing])}
        return assemble(
            Credentials(**own_credentials, revoked=revoked, **credentials),
            Limits(
                default_requests_per_minute=default_limit,
                limits=[Limit(key=key, org="local", requests_per_minute=n) for key, n in (key_limits or {}).items()],
                blocks=blocks,
            ),
            Upstreams(upstreams=with_records(self._static_upstreams(static_upstreams or {}), upstreams)),
            static_routes,
            records=Routes(routes=routes),
        )

    def _static_upstreams(self, static_upstreams: Mapping[str, Upstream]) -> dict[str, UpstreamRecord]:
        return {upstream.name: upstream for upstream in from_profile(self.profile.processes, static_upstreams)}

    async def apply(self, **differences: Json) -> ConfigurationReport:
        return await self.router.apply(self.configuration(**differences))

    def sign(self, key: str, *scopes: str, org: str = "local", desk: str = "research") -> str:
        now = datetime.now(UTC)
        return self.signing.sign(Claims(key, org, desk, scopes, now, now + timedelta(hours=1)))


@contextmanager
def unwritable(data_plane: DataPlaneHarness, file: str) -> Iterator[None]:
    """Make writes of this file of the data plane fail inside the block."""
    target = envoy.data_plane_settings(data_plane.profile).folder / file
    blocking_folder = target.parent.parent / f".{target.name}.new"
    blocking_folder.mkdir(parents=True)
    try:
        yield
    finally:
        blocking_folder.rmdir()


def with_data_plane(profile: Profile, folder: Path) -> Profile:
    """Return the profile with four processes and a data plane."""
    sockets = Path(tempfile.mkdtemp(prefix="e", dir=folder))
    services = {
        "gateway": GATEWAY_SERVICES,
        "models": ("serving", "discovery"),
        "rag": RAG_SERVICES,
        "workflow": ("orchestration",),
    }
    processes = {
        name: ServiceAddress(services=names, grpc=f"unix:{sockets}/{name}.g", http=f"unix:{sockets}/{name}.h")
        for name, names in services.items()
    }
    plane = DataPlane(
        listen=f"127.0.0.1:{free_port('127.0.0.1')}",
        folder=profile.data / "plane",
        admin=f"unix:{sockets}/a",
        metrics=f"unix:{sockets}/agent.h",
    )
    return profile.model_copy(update={"processes": processes, "data_plane": plane})


@asynccontextmanager
async def running(gateway: HarnessT) -> AsyncIterator[HarnessT]:
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.stop()
