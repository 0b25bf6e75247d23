"""Reads the audit records that services have written."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import psycopg

from drw.kernel.runtime.settings import Profile
from support.json_types import JsonObject


def audit_records(profile: Profile, *actions: str) -> list[JsonObject]:
    """Return the records with one of these actions, oldest first; an action can be a pattern, as in "kill.*"."""
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    records = [json.loads(row[0]) for row in rows]
    return [record for record in records if any(fnmatchcase(record["action"], action) for action in actions)]
