"""Runs statements in the database of a test."""

from __future__ import annotations

import psycopg

from drw.kernel.runtime.settings import Profile
from support.json_types import Json


def execute(profile: Profile, query: str, *args: object) -> list[tuple[Json, ...]]:
    """Run a statement, commit it and return its rows."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), args or None)
        return cursor.fetchall() if cursor.description else []
