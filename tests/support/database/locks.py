"""Waits until transactions of the platform wait for a lock that a test holds."""

from __future__ import annotations

import asyncio

import psycopg

from drw.kernel.runtime.settings import Profile

WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


async def until_locks_wait(profile: Profile, number: int) -> None:
    """Return once so many transactions wait for a lock."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        while connection.execute(WAITING).fetchone() != (number,):
            await asyncio.sleep(0)
