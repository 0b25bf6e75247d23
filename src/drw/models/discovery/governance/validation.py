"""Validation records: submission, approval and revocation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from drw.api.models.v1.versions_pb2 import Finding, ValidationRecord
from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import to_json
from drw.kernel.storage.sql import Jsonb
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions.messages import SETTINGS
from drw.models.discovery.versions.store import VersionStore, by_key, locked, notify
from drw.persons.second_person import SecondPerson
from drw.routing import permits

IN_SCOPE_FIELDS = ("purpose", "exposure", "materiality", "limits")
"""Fields that a record in scope needs."""


class Validations:
    """Submits, approves and revokes the validation records of versions.

    Args:
        max_days: the maximum time from the submission of a record to its expiry.
    """

    def __init__(self, store: VersionStore, second_person: SecondPerson, max_days: int) -> None:
        self._store = store
        self._second_person = second_person
        self._max_days = max_days

    async def submit(self, name: str, record: ValidationRecord) -> Row:
        """Submit a record. It replaces one that waits for approval; an approved one stays in force until the approval.

        Raises:
            InvalidRequest: the record is incomplete, or expires too late.
            SamePerson: the validator is the registrar.
            Conflict: the version was retired.
        """
        self._check_record(record)
        row = await self._store.get(name)
        await self._second_person.check(_people(row), f"validate {row['id']!r}")
        principal = context.caller()
        fields = to_json(record)
        async with self._store.database.transaction() as connection:
            row = await locked(connection, principal, name)
            _check_not_retired(row)
            cursor = await connection.execute("select * from validation where key = %s", (row["waiting_key"],))
            waiting = await cursor.fetchone()
            if waiting and waiting["record"] == fields and waiting["validator"] == principal.key:
                return row
            await connection.execute(
                "update validation set superseded_at = clock_timestamp() where key = %s", (row["waiting_key"],)
            )
            await connection.execute(
                "insert into validation (version, record, validator, expires_at, overdue_at)"
                " values (%s, %s, %s, %s, %s)",
                (row["key"], Jsonb(fields), principal.key, record.expires_at.ToDatetime(UTC), _overdue_at(record)),
            )
            await self._store.record(connection, "validate", row, _audited(record))
            await notify(connection)
            return await by_key(connection, row["key"])

    async def approve(self, name: str) -> Row:
        """Approve the record that waits for approval; it is then in force.

        Raises:
            SamePerson: the approver is the registrar.
            Conflict: no record waits, it was replaced meanwhile, or the version was retired.
        """
        row = await self._store.get(name)
        people = _people(row)
        if row["registered_by"] == SETTINGS and row["waiting_key"] is not None:
            people = [await self._validator(row)]
        await self._second_person.check(people, f"approve {row['id']!r}")
        principal = context.caller()
        compared = row["waiting_key"]
        async with self._store.database.transaction() as connection:
            row = await locked(connection, principal, name)
            _check_not_retired(row)
            if row["waiting_key"] is None:
                return await self._approved_already(row, principal.key)
            if row["waiting_key"] != compared:
                raise Conflict(f"the record of {row['id']!r} was replaced meanwhile: read it, and approve again")
            await connection.execute(
                "update validation set superseded_at = clock_timestamp()"
                " where version = %s and approved_at is not null and superseded_at is null",
                (row["key"],),
            )
            cursor = await connection.execute(
                "update validation set approved_by = %s, approved_at = clock_timestamp() where key = %s returning *",
                (principal.key, compared),
            )
            approved = await cursor.fetchone() or {}
            if approved["expires_at"] <= datetime.fromtimestamp(permits.now(), UTC):
                raise Conflict(f"the record of {row['id']!r} has expired: submit another one")
            details = {"validation": approved["id"], "validator": approved["validator"]}
            await self._store.record(connection, "approve", row, details)
            await notify(connection)
            return await by_key(connection, row["key"])

    async def revoke(self, name: str, reason: str) -> Row:
        """Revoke the records of a version that are in force or wait for approval."""
        principal = context.caller()
        async with self._store.database.transaction() as connection:
            row = await locked(connection, principal, name)
            cursor = await connection.execute(
                "update validation set revoked_by = %s, revoked_at = clock_timestamp(), revoke_reason = %s"
                " where version = %s and superseded_at is null and revoked_at is null returning id",
                (principal.key, reason, row["key"]),
            )
            if revoked := [each["id"] for each in await cursor.fetchall()]:
                await self._store.record(connection, "revoke", row, {"validations": revoked, "reason": reason})
                await notify(connection)
            return await by_key(connection, row["key"])

    async def of(self, key: int) -> list[Row]:
        """Return the records of a version, newest first."""
        return await self._store.database.all("select * from validation where version = %s order by key desc", key)

    async def _validator(self, row: Row) -> str:
        found = await self._store.database.one("select validator from validation where key = %s", row["waiting_key"])
        if found is None:
            raise _nothing_waits(row)
        return str(found["validator"])

    async def _approved_already(self, row: Row, key: str) -> Row:
        found = await self._store.database.one(
            "select approved_by from validation where key = %s", row["validation_key"]
        )
        if found is None or found["approved_by"] != key:
            raise _nothing_waits(row)
        return row

    def _check_record(self, record: ValidationRecord) -> None:
        if record.scope == ValidationRecord.IN_SCOPE:
            for name in IN_SCOPE_FIELDS:
                if not getattr(record, name):
                    raise InvalidRequest(f"{name} is missing: a model in scope needs it", param=f"record.{name}")
        now = datetime.fromtimestamp(permits.now(), UTC)
        expires_at = _time(record.expires_at, "record.expires_at")
        if expires_at <= now:
            raise InvalidRequest("expires_at is in the past", param="record.expires_at")
        if expires_at > now + timedelta(days=self._max_days):
            message = f"expires_at is more than {self._max_days} days from now (the setting max_validation_days)"
            raise InvalidRequest(message, param="record.expires_at")
        for i, finding in enumerate(record.findings):
            _time(finding.due_at, f"record.findings[{i}].due_at")
        if (overdue_at := _overdue_at(record)) is not None and overdue_at <= now:
            message = "an unresolved finding of high severity is overdue: resolve it before the version is used"
            raise InvalidRequest(message, param="record.findings")


def _people(row: Row) -> list[str]:
    """Return who prepared a version. The deployer declares models of the settings, and is not on record."""
    return [] if row["registered_by"] == SETTINGS else [row["registered_by"]]


def _check_not_retired(row: Row) -> None:
    if row["retired_at"] is not None:
        raise Conflict(f"{row['id']!r} was retired: register another version")


def _nothing_waits(row: Row) -> Conflict:
    return Conflict(f"no validation record of {row['id']!r} waits for approval: submit one with `drw models validate`")


def _time(timestamp: Any, param: str) -> datetime:
    try:
        value: datetime = timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{param} is not a time", param=param) from error
    return value


def _overdue_at(record: ValidationRecord) -> datetime | None:
    due = [f.due_at.ToDatetime(UTC) for f in record.findings if f.severity == Finding.HIGH and not f.resolved]
    return min(due, default=None)


def _audited(record: ValidationRecord) -> dict[str, Any]:
    """Return the facts of a record for the audit record; texts stay in the record."""
    return {
        "scope": ValidationRecord.Scope.Name(record.scope),
        "materiality": ValidationRecord.Materiality.Name(record.materiality),
        "owner": record.owner,
        "expires_at": record.expires_at.ToJsonString(),
        "findings": [
            {"severity": Finding.Severity.Name(f.severity), "due_at": f.due_at.ToJsonString(), "resolved": f.resolved}
            for f in record.findings
        ],
    }
