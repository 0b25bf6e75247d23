"""Reads the audit records that services have written."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import psycopg

from drw.kernel.runtime.settings import Profile


def audit_records(profile: Profile, *actions: str) -> list[dict[str, Any]]:
    """Return the records with one of these actions, oldest first; an action can be a pattern, as in "kill.*"."""
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    records = [json.loads(row[0]) for row in rows]
    return [record for record in records if any(fnmatchcase(record["action"], action) for action in actions)]
