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

from drw.kernel.call import SCOPES, Caller
from drw.kernel.host import Host
from drw.kernel.rpc import StrictTransport
from drw.kernel.settings import Place, Profile
from drw.local import postgres as local_postgres
from support.parts import new_database, running_postgres, running_valkey, short_folder

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a test starts compiles everything anew

_numbers = itertools.count()


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
    return Profile(name="test", data=tmp_path, postgres=database, valkey=f"{valkey}?db={next(_numbers) % 16}")


@pytest.fixture
def caller() -> Caller:
    """Somebody who may do everything for one desk."""
    return Caller("acme", "research", "key_test", frozenset(SCOPES) - {"org:admin"})


@asynccontextmanager
async def hosted(profile: Profile, services: list[str], how: str = "together") -> AsyncIterator[Host]:
    """Run services and give a host whose `client(...)` reaches them.

    together: in this process. strict: the same, through bytes, and every safe call twice.
    apart: each in a host of its own, over gRPC.
    """
    hosts: list[Host] = []
    try:
        if how == "apart":
            processes: dict[str, Any] = {}
            sockets = Path(profile.postgres.split("host=")[1].split()[0])
            for name in services:
                base = f"unix:{sockets}/{next(_numbers)}"
                processes[name] = Place(services=(name,), grpc=f"{base}.g", http=f"{base}.h")
            spread = profile.model_copy(update={"processes": processes})
            for name in services:
                host = Host(spread, name)
                hosts.append(host)
                await host.start()
            outside = Host(spread, "test", services=[])
            hosts.append(outside)
            yield outside
        else:
            wrap = StrictTransport if how == "strict" else (lambda transport: transport)
            host = Host(profile, "test", services, wrap)
            hosts.append(host)
            await host.start()
            yield host
    finally:
        await asyncio.gather(*(host.stop(grace=0) for host in hosts))
