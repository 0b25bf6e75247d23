"""The fixture that runs a case, with one database for all cases."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from drw.local import postgres as local_postgres
from models.failover.world import in_world

__all__ = ["in_world"]


@pytest.fixture(scope="session")
def database(postgres: Path) -> str:
    """The connection string of a database that all cases share."""
    with psycopg.connect(local_postgres.dsn(postgres, "postgres"), autocommit=True) as connection:
        connection.execute("create database test_failover")
    return local_postgres.dsn(postgres, "test_failover")
