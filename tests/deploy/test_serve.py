"""`drw serve`, `drw migrate` and `drw first-key` with one process for each service, on TCP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest

from deploy.served import Served
from drw.catalog import BY_NAME
from drw.cli.platform import migrations
from drw.generate.protos import ROOT
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.kernel.storage.database import Database
from support.parts import until


@pytest.fixture
def served(tmp_path: Path, database: str, valkey: str) -> Served:
    return Served(tmp_path, database, valkey, migrations="await")


def responds(served: Served, service: str, path: str, expected: tuple[int, str]) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await served.get(service, path) == expected

    return ready


async def test_processes_wait_for_migrations_and_find_each_other(served: Served) -> None:
    waits = "waiting for `drw migrate`"
    with served.serving("retrieval") as retrieval, served.serving("vector_store") as vector_store:

        async def both_wait() -> bool:
            return waits in served.log("retrieval") and waits in served.log("vector_store")

        await until(both_wait, "the processes")
        assert await served.get("vector_store", "/startupz") == (0, "")
        migrated = served.run("migrate")
        assert migrated.returncode == 0, migrated.stderr
        await until(responds(served, "vector_store", "/readyz", (200, "ok\n")), "vector_store")
        await until(responds(served, "retrieval", "/readyz", (503, "retrieval: embedding\n")), "vector_store, by name")
        assert await served.get("retrieval", "/startupz") == (200, "ok\n")
        assert await served.get("retrieval", "/livez") == (200, "ok\n")
        status, metrics = await served.get("vector_store", "/metrics/vector_store")
        assert status == 200 and 'drw_service_ready{service="vector_store"} 1.0' in metrics
        vector_store.terminate()
        assert vector_store.wait(20) == 0
        await until(
            responds(served, "retrieval", "/readyz", (503, "retrieval: embedding, vector_store\n")), "lost service"
        )
        retrieval.terminate()
        assert retrieval.wait(20) == 0
    assert served.run("migrate").returncode == 0, "repeating it changes nothing"


async def test_listener_for_probes_has_no_api(served: Served) -> None:
    assert served.run("migrate").returncode == 0
    as_operator = {"x-drw-org": "acme", "x-drw-desk": "research", "x-drw-key": "k", "x-drw-scopes": "templates:read"}
    with served.serving("templates"):
        await until(responds(served, "templates", "/readyz", (200, "ok\n")), "templates")
        async with httpx.AsyncClient() as client:
            api = await client.get(f"http://{served.processes['templates']['http']}/api/v1/templates")
            probes = await client.get(f"http://{served.probes['templates']}/api/v1/templates", headers=as_operator)
    assert api.status_code == 401
    assert probes.status_code == 404


async def test_first_key_has_every_scope(served: Served) -> None:
    assert served.run("migrate").returncode == 0
    with served.serving("authentication"), served.serving("rate_limiting"):
        for service in ("authentication", "rate_limiting"):
            await until(responds(served, service, "/readyz", (200, "ok\n")), service)
        created = served.run("first-key")
    assert created.returncode == 0, created.stderr
    claims = jwt.decode(created.stdout.strip(), options={"verify_signature": False})
    assert claims["org"] == "local" and "platform:admin" in claims["scope"].split()


@pytest.mark.parametrize(
    ("services", "message"),
    [
        (["templtes"], "there is no service 'templtes'"),
        (["templates", "state"], "no process of the profile runs exactly templates state"),
    ],
)
def test_unknown_process_is_refused(served: Served, services: list[str], message: str) -> None:
    refused = served.run("serve", *services)
    assert refused.returncode == 3 and message in refused.stderr


async def test_schema_of_a_newer_release_serves_this_one(database: str) -> None:
    package = BY_NAME["templates"].package
    applied = Database(database, "templates")
    await applied.start(package)
    async with applied.transaction() as connection:
        await connection.execute("insert into migration (name) values ('9999_next_release.sql')")
    await applied.stop()
    waiting = Database(database, "templates", await_migrations=True)
    await waiting.start(package)
    await waiting.stop()


async def test_migrate_covers_every_schema_of_the_services(profile: Profile) -> None:
    await migrations.apply(profile)
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select table_schema from information_schema.tables where table_name = 'migration'")
        found = {row[0] for row in rows}
    packages = {file.parent.parent for file in (ROOT / "src" / "drw").glob("**/migrations/*.sql")}
    assert {ROOT / "src" / package.replace(".", "/") for package in migrations.schemas().values()} == packages
    assert found == set(migrations.schemas())


def test_process_listens_at_its_interface_with_the_ports_of_its_addresses() -> None:
    address = ServiceAddress(services=(), grpc="drw-state:9000", http="unix:/run/x", bind="0.0.0.0")
    assert address.listener(address.grpc) == "0.0.0.0:9000"
    assert address.listener(address.http) == "unix:/run/x"
    assert address.listener(address.inference) == ""
