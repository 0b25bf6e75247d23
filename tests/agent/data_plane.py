"""A real Envoy with its agent, in front of the real gateway services and of a double of the models."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg

from agent.doubles import DoubleModels, DoubleRouter
from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.agent import Agent
from drw.agent.delivery import envoy
from drw.agent.reporting.health import UpstreamHealth
from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, Credentials, RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import Upstream as MadeUpstream
from drw.api.gateway.v1.load_balancer_pb2 import Upstreams
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits
from drw.api.gateway.v1.request_router_pb2 import (
    Configuration,
    ConfigurationReport,
    Routes,
)
from drw.api.gateway.v1.request_router_pb2 import Route as MadeRoute
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
from drw.kernel.rpc.http_server import HttpServer
from drw.kernel.rpc.transport import Channels, Server
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import DataPlane, Profile, ServiceAddress, Tls
from drw.local.first_key import ensure_home
from drw.local.preflight import free_port
from support.hosting import SECRET, with_secret
from support.parts import until

F = TypeVar("F", bound="Front")

GATEWAY = ("authentication", "rate_limiting", "load_balancer", "request_router")
RAG = ("documents", "embedding", "vector_store", "retrieval")
OPERATOR = Principal("local", "research", "operator", frozenset(SCOPES))


class Front:
    """The whole front door of a profile, each part to be stopped and started."""

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
        """The gateway services, which run."""
        assert self._host is not None, "the gateway services do not run"
        return self._host

    @property
    def plane(self) -> DataPlane:
        """The settings of the data plane."""
        return envoy.data_plane_settings(self.profile)

    @property
    def tls(self) -> Tls:
        """The settings of its TLS listener, which it has."""
        assert self.plane.tls is not None, "the data plane has no TLS listener"
        return self.plane.tls

    async def start(self) -> None:
        await self.start_gateway()
        await self.start_models()
        self.start_agent()
        await self.start_envoy()
        await self.settled()

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
        router = self._channels.client(RequestRouterClient, self.profile.place("request_router").grpc)
        self._agent = asyncio.create_task(Agent(self.profile, router).run())

    async def stop_agent(self) -> None:
        if self._agent:
            self._agent.cancel()
            with suppress(asyncio.CancelledError):
                await self._agent
        self._agent = None

    async def start_envoy(self) -> None:
        async def ready() -> bool:
            return envoy.ready_file(self.profile).exists()

        await until(ready, "the bootstrap of Envoy")
        self.launch_envoy()
        await until(self.alive, "Envoy")

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

    async def alive(self) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.url}/healthz")).text == "ok\n"
        except httpx.TransportError:
            return False

    async def router(self) -> ServiceStatus:
        return next(s for s in (await self.host.status()).services if s.name == "request_router")

    async def wanted(self) -> str:
        """Return the version that the router wants."""
        return (await self.router()).detail.partition(";")[0].removeprefix("version ")

    async def settled(self, other_than: str = "") -> None:
        """Return when the data plane runs what the router wants, and that is another version."""

        async def same() -> bool:
            status, wanted = await self.router(), await self.wanted()
            return wanted != other_than and status.state == ServiceStatus.READY and f"runs {wanted}" in status.detail

        await until(same, "the newest version")

    async def key(self, *scopes: str, requests_per_minute: int = 0) -> str:
        """Issue a key, and return its secret."""
        request = CreateKeyRequest(name="test", scopes=scopes, requests_per_minute=requests_per_minute)
        with acting_for(OPERATOR):
            created = await self.host.client(AuthenticationClient).create_key(request)
        return created.secret

    async def revoke(self, key: str) -> None:
        """Revoke a key, and return when the data plane knows."""
        before = await self.wanted()
        with acting_for(OPERATOR):
            await self.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=key))
        await self.settled(before)

    def signer(self, issuer: str = "drw", audience: str = "drw-gateway") -> Signer:
        """Return what signs keys, to make some that the service would not."""
        query = "select kid, private_key from authentication.signing_key order by signs_from"
        with psycopg.connect(self.profile.postgres) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return Signer(EnvelopeEncryption(SECRET).open(*row), issuer, audience)

    def client(self, secret: str = "", **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, **options)

    def admin(self) -> EnvoyAdmin:
        return EnvoyAdmin(envoy.data_plane_settings(self.profile).admin)

    async def envoy_answers(self) -> bool:
        try:
            await self.admin().rejections()
        except Unavailable:
            return False
        return True


class Fed(Front):
    """The front door without the gateway services: the test itself is the request router."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.router_double = DoubleRouter()
        self.signing = Signer(new_private_key(), "drw", "drw-gateway")
        self.circuits = UpstreamHealth(self.admin())
        self._server: Server | None = None

    async def start_gateway(self) -> None:
        self._server = Server([self.router_double])
        await self._server.start(self.profile.place("request_router").grpc)

    async def stop_gateway(self) -> None:
        if self._server:
            await self._server.stop(0)
        self._server = None

    async def start(self) -> None:
        await self.start_gateway()
        await self.start_models()
        self.start_agent()
        wanting = asyncio.create_task(self.want())
        await self.start_envoy()
        assert (await wanting).error == ""

    def configuration(
        self,
        *,
        more: Sequence[RouteSettings] = (),
        own: Mapping[str, int] | None = None,
        revoked: Sequence[str] = (),
        upstreams: Mapping[str, Upstream] | None = None,
        records: Sequence[MadeRoute] = (),
        made: Sequence[MadeUpstream] = (),
        default: int = 1_000_000,
        blocks: Sequence[Block] = (),
        **others: Any,
    ) -> Configuration:
        """Return a desired state with these differences from the usual one; `others`: issuers, certificates, desks."""
        ours: dict[str, Any] = {"issuer": "drw", "audience": "drw-gateway", "jwks": jwks([self.signing])}
        return assemble(
            Credentials(**ours, revoked=revoked, **others),
            Limits(
                default_requests_per_minute=default,
                limits=[Limit(key=key, org="local", requests_per_minute=n) for key, n in (own or {}).items()],
                blocks=blocks,
            ),
            Upstreams(upstreams=with_records(self._fixed(upstreams or {}), made)),
            more,
            records=Routes(routes=records),
        )

    def _fixed(self, more: Mapping[str, Upstream]) -> dict[str, MadeUpstream]:
        return {upstream.name: upstream for upstream in from_profile(self.profile.processes, more)}

    async def want(self, **differences: Any) -> ConfigurationReport:
        return await self.router_double.want(self.configuration(**differences))

    def sign(self, key: str, *scopes: str, org: str = "local", desk: str = "research") -> str:
        now = datetime.now(UTC)
        return self.signing.sign(Claims(key, org, desk, scopes, now, now + timedelta(hours=1)))


@contextmanager
def unwritable(fed: Fed, file: str) -> Iterator[None]:
    """Let this file of the data plane not be written for as long as the block lasts."""
    wanted = envoy.data_plane_settings(fed.profile).folder / file
    draft = wanted.parent.parent / f".{wanted.name}.new"
    draft.mkdir(parents=True)
    try:
        yield
    finally:
        draft.rmdir()


def front_profile_of(profile: Profile, folder: Path) -> Profile:
    """Return the profile with four processes and a data plane; nothing runs yet."""
    sockets = Path(tempfile.mkdtemp(prefix="e", dir=folder))
    services = {"gateway": GATEWAY, "models": ("serving", "discovery"), "rag": RAG, "workflow": ("orchestration",)}
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
async def running(front: F) -> AsyncIterator[F]:
    try:
        await front.start()
        yield front
    finally:
        await front.stop()
