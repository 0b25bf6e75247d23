"""Runs statements in the database of a test."""

from __future__ import annotations

from typing import Any

import psycopg

from drw.kernel.runtime.settings import Profile


def execute(profile: Profile, query: str, *args: Any) -> list[tuple[Any, ...]]:
    """Run a statement, commit it and return its rows."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), args or None)
        return cursor.fetchall() if cursor.description else []
