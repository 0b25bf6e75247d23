"""Fixtures that every folder of tests may use: real parts, a profile, and a host of services."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import PutDeskRequest, PutOrgRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.catalog import BY_NAME
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.transport import StrictTransport
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.local import postgres as local_postgres
from drw.local.first_key import OPERATOR, make_home
from support.parts import new_database, running_postgres, running_valkey, short_folder

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a test starts compiles everything anew

_numbers = itertools.count()

SECRET = "n3J-u8Zq_t5Xw1Rb7Kd2Fh9Lp4Vc6My0"
"""Under which the authentication service of every test seals."""


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for the whole run, with a short path."""
    with short_folder() as path:
        yield path


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[Path]:
    """The folder of a running PostgreSQL's socket."""
    with running_postgres(folder) as sockets:
        yield sockets


@pytest.fixture(scope="session")
def valkey(folder: Path) -> Iterator[str]:
    """The URL of a running Valkey."""
    with running_valkey(folder) as url:
        yield url


@pytest.fixture
def database(postgres: Path) -> Iterator[str]:
    """The connection string of a new, empty database, which lasts as long as the test."""
    dsn = new_database(postgres)
    yield dsn
    with psycopg.connect(local_postgres.dsn(postgres, "postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {dsn.partition('dbname=')[2]} with (force)".encode())


@pytest.fixture
def profile(database: str, valkey: str, tmp_path: Path) -> Profile:
    """A profile without processes or settings: `profile.model_copy(update=...)` adds what a test needs."""
    return with_secret(Profile(name="test", data=tmp_path, postgres=database, valkey=f"{valkey}?db={next(_numbers)}"))


def with_secret(profile: Profile) -> Profile:
    """Return the profile with a secret for the authentication service, unless it has one."""
    own = {"secret": SECRET} | profile.services.get("authentication", {})
    return profile.model_copy(update={"services": profile.services | {"authentication": own}})


@pytest.fixture
def caller() -> Principal:
    """Somebody who may do everything for one desk."""
    return Principal("acme", "research", "key_test", frozenset(SCOPES) - {"org:admin"})


@asynccontextmanager
async def hosted(profile: Profile, services: list[str], how: str = "together") -> AsyncIterator[Host]:
    """Run services and give a host whose `client(...)` reaches them.

    together: in this process. strict: the same, through bytes, and every safe call twice.
    apart: each in a host of its own, over gRPC.

    With the authentication service among them the desks of `caller` and of the operator are there.
    """
    hosts: list[Host] = []
    if "authentication" in services:
        profile = with_secret(profile)
    try:
        if how == "apart":
            processes: dict[str, Any] = dict(profile.processes)
            sockets = Path(profile.postgres.split("host=")[1].split()[0])
            for name in services:
                base = f"unix:{sockets}/{next(_numbers)}"
                processes[name] = ServiceAddress(services=(name,), grpc=f"{base}.g", http=f"{base}.h")
            spread = profile.model_copy(update={"processes": processes})
            # Whoever is called first: gRPC waits before it tries again where nobody answered.
            for name in sorted(services, key=lambda name: len(BY_NAME[name].calls)):
                host = Host(spread, name)
                hosts.append(host)
                await host.start()
            outside = Host(spread, "test", services=[])
            hosts.append(outside)
            await _make_desks(outside, services)
            yield outside
        else:
            wrap = StrictTransport if how == "strict" else (lambda transport: transport)
            host = Host(profile, "test", services, wrap)
            hosts.append(host)
            await host.start()
            await _make_desks(host, services)
            yield host
    finally:
        await asyncio.gather(*(host.stop(grace=0) for host in hosts))


async def _make_desks(host: Host, services: list[str]) -> None:
    if "authentication" not in services:
        return
    client, held = host.client(AuthenticationClient), {"scopes": sorted(SCOPES), "walls": ["m-and-a", "rates"]}
    with acting_for(OPERATOR):
        await make_home(client)
        await client.put_org(PutOrgRequest(name="acme", **held))
        await client.put_desk(PutDeskRequest(org="acme", name="research", **held))
