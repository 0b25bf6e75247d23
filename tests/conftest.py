"""Fixtures of all tests: PostgreSQL, Valkey, a profile, and a caller."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from drw.kernel.observability import outcomes
from drw.kernel.rpc.context import SCOPES, Principal
from drw.kernel.runtime.settings import Profile
from drw.local import postgres as local_postgres
from support.hosting import with_secret
from support.parts import new_database, running_postgres, running_valkey, short_folder

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise each process that a test starts compiles all modules

# Examples take longer on a busy machine: neither their time nor that of their generation is an assertion.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder with a short path, for all tests."""
    with short_folder() as path:
        yield path


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[Path]:
    """The socket folder of PostgreSQL."""
    with running_postgres(folder) as sockets:
        yield sockets


@pytest.fixture(scope="session")
def valkey(folder: Path) -> Iterator[str]:
    """The URL of Valkey."""
    with running_valkey(folder) as url:
        yield url


@pytest.fixture
def database(postgres: Path) -> Iterator[str]:
    """The connection string of an empty database, which is dropped after the test."""
    dsn = new_database(postgres)
    yield dsn
    with psycopg.connect(local_postgres.dsn(postgres, "postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {dsn.partition('dbname=')[2]} with (force)".encode())


@pytest.fixture
def profile(database: str, valkey: str, tmp_path: Path) -> Profile:
    """A profile without processes or settings, which `profile.model_copy(update=...)` adds."""
    return with_secret(Profile(name="test", data=tmp_path, postgres=database, valkey=f"{valkey}?db={next(_numbers)}"))


@pytest.fixture
def outcomes_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the requests that this process has counted in earlier tests."""
    monkeypatch.setattr(outcomes, "_counts", Counter())
    monkeypatch.setattr(outcomes, "_unanswered", Counter())


@pytest.fixture
def caller() -> Principal:
    """A caller with all scopes for one desk, except `org:admin`."""
    return Principal("acme", "research", "key_test", frozenset(SCOPES) - {"org:admin"})
