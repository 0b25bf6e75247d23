"""Mutual TLS between processes: who may call whom by certificate, and renewals under load."""

from __future__ import annotations

import asyncio
import importlib
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from drw.api.audit.v1 import log_rpc
from drw.api.audit.v1.log_pb2 import Checkpoint, GetCheckpointRequest
from drw.api.contract import Client, Servicer
from drw.api.gateway.v1 import request_router_rpc
from drw.api.gateway.v1.request_router_pb2 import Kills, WatchKillsRequest
from drw.catalog import AGENT, AGENT_CALLS, BY_NAME
from drw.kernel.errors import ConfigError, DrwError, Forbidden, Unavailable
from drw.kernel.rpc import identities as identities_module
from drw.kernel.rpc.identities import Identities
from drw.kernel.rpc.transport import OPERATOR, Channels, Server
from drw.kernel.runtime.settings import MutualTls
from drw.local.certificates import CertificateAuthority

NOW = datetime.now(UTC)
NAMES: dict[str, Iterable[str]] = {name: (name,) for name in (*BY_NAME, AGENT, OPERATOR)} | {"everything": BY_NAME}
ALLOWED = {service.name: service.calls for service in BY_NAME.values()} | {AGENT: AGENT_CALLS, OPERATOR: tuple(BY_NAME)}


@dataclass
class Mesh:
    """An authority with an identity for each service, and a server of all services."""

    tls: MutualTls
    sockets: Path
    address: str = ""

    def __post_init__(self) -> None:
        self.authority = CertificateAuthority(self.tls)

    @property
    def identities(self) -> Identities:
        return Identities(self.tls.folder, self.tls.trust_domain, self.tls.namespace)

    @asynccontextmanager
    async def channels(self, caller: str) -> AsyncIterator[Channels]:
        channels = Channels(self.identities, caller)
        try:
            yield channels
        finally:
            await channels.close()

    @asynccontextmanager
    async def serving(self, *servicers: Servicer, name: str = "everything") -> AsyncIterator[None]:
        server = Server(servicers, identities=self.identities, name=name)
        self.address = await server.start(f"unix:{self.sockets}/mutual-tls.sock")
        try:
            yield
        finally:
            await server.stop(0)


@pytest.fixture
def mesh(folder: Path, tmp_path: Path) -> Mesh:
    mesh = Mesh(MutualTls(folder=tmp_path / "tls"), folder)
    mesh.authority.renew(NAMES, NOW)
    return mesh


def contract(service: str) -> tuple[type[Servicer], type[Client]]:
    """Return the base class of a service, and its client."""
    row = BY_NAME[service]
    module = importlib.import_module(f"drw.api.{row.cluster}.v1.{service}_rpc")
    name = row.contract.rpartition(".")[2]
    return getattr(module, name), getattr(module, f"{name}Client")


async def refused(channels: Channels, address: str, service: str, caller: str = "") -> bool:
    """Return whether a call is refused; a permitted one ends with another error, as the service implements nothing."""
    client = channels.client(contract(service)[1], address, caller)
    method = next(iter(client.contract.methods.values()))
    try:
        if method.streams:
            async for _ in client._transport.stream(method, method.request(), 30):
                raise AssertionError("nothing is implemented")
        await client._transport.unary(method, method.request(), 30)
    except Forbidden as error:
        assert "the catalog does not list this call" in error.message
        return True
    except DrwError as error:
        assert error.code in ("UNIMPLEMENTED", "INVALID_ARGUMENT"), error
        return False
    raise AssertionError("nothing is implemented")


async def test_each_service_calls_what_the_catalog_lists_and_nothing_else(mesh: Mesh) -> None:
    async with mesh.serving(*(contract(service)[0]() for service in BY_NAME)):
        for caller, calls in ALLOWED.items():
            async with mesh.channels(caller) as channels:
                found = await asyncio.gather(*(refused(channels, mesh.address, service) for service in BY_NAME))
            assert {service for service, no in zip(BY_NAME, found, strict=True) if not no} == set(calls), caller


async def test_a_declared_name_needs_the_certificate_of_that_name(mesh: Mesh) -> None:
    async with mesh.serving(log_rpc.Log()), mesh.channels("templates") as channels:
        client = channels.client(log_rpc.LogClient, mesh.address)
        client._transport._caller = OPERATOR  # type: ignore[attr-defined]
        with pytest.raises(Forbidden, match="'templates' calls as 'operator'"):
            await client.get_checkpoint(GetCheckpointRequest())


async def test_a_caller_without_a_certificate_of_this_authority_reaches_nobody(mesh: Mesh, tmp_path: Path) -> None:
    other = MutualTls(folder=tmp_path / "other")
    CertificateAuthority(other).renew(NAMES, NOW)
    stranger = Identities(other.folder, other.trust_domain, other.namespace)
    async with mesh.serving(log_rpc.Log()):
        for channels in (Channels(), Channels(stranger)):
            client = channels.client(log_rpc.LogClient, mesh.address)
            with pytest.raises(Unavailable):
                await client.get_checkpoint(GetCheckpointRequest(), timeout=10)
            await channels.close()


async def test_a_server_answers_only_for_the_services_of_its_certificate(mesh: Mesh) -> None:
    async with mesh.serving(log_rpc.Log(), name="documents"), mesh.channels(OPERATOR) as channels:
        with pytest.raises(Unavailable):
            await channels.client(log_rpc.LogClient, mesh.address).get_checkpoint(GetCheckpointRequest(), timeout=10)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"serving.drw.internal"],
        [b"spiffe://other.example/ns/local/sa/serving"],
        [b"spiffe://drw.internal/ns/other/sa/serving"],
        [b"spiffe://drw.internal/ns/local/sa/serving/more"],
        [b"spiffe://drw.internal/ns/local/sa/serving", b"spiffe://drw.internal/ns/local/sa/operator"],
        [b"spiffe://drwXinternal/ns/local/sa/serving"],
    ],
)
def test_other_spiffe_ids_name_nobody(mesh: Mesh, names: list[bytes]) -> None:
    with pytest.raises(Forbidden):
        mesh.identities.caller({"x509_subject_alternative_name": names})


class Log(log_rpc.Log):
    """Answers."""

    async def get_checkpoint(self, request: GetCheckpointRequest, /) -> Checkpoint:
        return Checkpoint(size=7)


class Router(request_router_rpc.RequestRouter):
    """Streams a message for each permit."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(1)

    async def watch_kills(self, request: WatchKillsRequest, /) -> AsyncGenerator[Kills, None]:
        while True:
            await self.permits.acquire()
            yield Kills()


async def test_renewals_of_certificates_and_authority_drop_no_call(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities_module, "CHECK_SECONDS", 0.0)
    mesh = Mesh(MutualTls(folder=tmp_path / "tls"), folder)
    mesh.authority.renew({}, NOW - timedelta(days=340))  # the first authority ends in 25 days
    mesh.authority.renew(NAMES, NOW - timedelta(hours=13))  # past half of their lifetime now
    first, router = issuer_of(mesh), Router()
    async with mesh.serving(Log(), router), mesh.channels(OPERATOR) as channels:
        watch = channels.client(request_router_rpc.RequestRouterClient, mesh.address).watch_kills(WatchKillsRequest())
        await anext(watch)
        client = channels.client(log_rpc.LogClient, mesh.address)
        stop = asyncio.Event()

        async def call_until_stopped() -> None:
            while not stop.is_set():
                assert (await client.get_checkpoint(GetCheckpointRequest())).size == 7

        used = {channels.channel(mesh.address, "log")}
        async with asyncio.TaskGroup() as callers:
            for _ in range(4):
                callers.create_task(call_until_stopped())
            for more in ("", "second", "third"):  # other names make all certificates due
                names = {name: {*served, more} - {""} for name, served in NAMES.items()}
                assert set(await asyncio.to_thread(mesh.authority.renew, names, NOW)) == set(NAMES)
                await client.get_checkpoint(GetCheckpointRequest())
                used.add(channels.channel(mesh.address, "log"))
            stop.set()
        router.permits.release()
        await anext(watch)  # the stream on the first connection goes on
        await watch.aclose()
    assert len(used) == 4
    assert issuer_of(mesh) != first


def issuer_of(mesh: Mesh) -> x509.Name:
    return x509.load_pem_x509_certificate(mesh.identities.get(OPERATOR).certificate).issuer


def test_certificates_are_renewed_at_half_of_their_lifetime(mesh: Mesh) -> None:
    assert mesh.authority.renew(NAMES, NOW + timedelta(hours=11)) == []
    assert set(mesh.authority.renew(NAMES, NOW + timedelta(hours=13))) == set(NAMES)
    assert mesh.authority.renew(NAMES, NOW + timedelta(hours=14)) == []


def test_a_new_authority_is_trusted_before_it_issues(mesh: Mesh) -> None:
    first = issuer_of(mesh)
    later = NOW + timedelta(days=340)
    mesh.authority.renew(NAMES, later)
    assert issuer_of(mesh) == first
    assert mesh.identities.get("serving").authorities.count(b"BEGIN CERTIFICATE") == 2
    mesh.authority.renew(NAMES, later + timedelta(hours=13))
    assert issuer_of(mesh) != first
    mesh.authority.renew(NAMES, later + timedelta(days=30))  # the first one has ended
    assert mesh.identities.get("serving").authorities.count(b"BEGIN CERTIFICATE") == 1


def test_keys_are_readable_by_this_user_only_and_drafts_are_removed(mesh: Mesh) -> None:
    draft = mesh.tls.folder / ".serving-0123456789abcdef"
    draft.mkdir()
    (draft / "tls.key").write_bytes(b"half")
    mesh.authority.renew(NAMES, NOW)
    assert not draft.exists()
    files = [path for path in mesh.tls.folder.rglob("*") if path.is_file()]
    assert len(files) >= 3 * len(NAMES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_an_identity_that_vanishes_stays_in_use(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities_module, "CHECK_SECONDS", 0.0)
    identities = mesh.identities
    known = identities.get("serving")
    (mesh.tls.folder / "serving").unlink()
    assert identities.get("serving") is known
    with pytest.raises(ConfigError, match="cannot be read"):
        mesh.identities.get("serving")
