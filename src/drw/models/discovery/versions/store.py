"""Versions in PostgreSQL: registration, lookup, evaluation results and retirement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from drw.api.models.v1.discovery_pb2 import ListVersionsRequest, Model, ModelFile, ModelVersion
from drw.api.models.v1.versions_pb2 import Evaluation
from drw.kernel import paging, tenancy
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions.identity import DIGEST, VersionName, parse, version_id

CHANNEL = "discovery_aliases_changed"
MAX_EVALUATIONS = 200
"""Maximum evaluation results of one version."""
PAGE_SIZE = 100
SELECT: LiteralString = "select * from version_state"
VISIBLE: LiteralString = "org in (%(org)s, '') and inside(walls, %(walls)s)"
LOOKUP: LiteralString = (
    f"{SELECT} where {VISIBLE} and model = %(model)s and starts_with(digest, %(digest)s) order by org desc, key limit 2"
)


class VersionNotFound(NotFound):
    """The org has no such version, or the caller is outside of its walls."""

    def __init__(self, name: str) -> None:
        message = f"there is no version {name[:140]!r}; `drw models versions` lists them"
        super().__init__(message, code="model_not_found", param="id")


class VersionStore:
    """Reads and changes versions. Each change leaves an audit record in the same transaction."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self.database = database
        self.audit = audit

    async def get(self, name: str) -> Row:
        """Return a version by its id, or by a longer prefix of its digest.

        Raises:
            VersionNotFound: the caller sees no such version.
        """
        async with self.database.transaction() as connection:
            return await visible(connection, context.caller(), name)

    async def find(self, reference: VersionName, principal: Principal | None) -> Row | None:
        """Return a version that a caller sees, or None. Callers without an org see those of the settings only."""
        async with self.database.transaction() as connection:
            return await _find(connection, reference, principal)

    async def locked_for_service(self, connection: Connection, org: str, reference: VersionName) -> Row:
        """Return a version of an org for another service, with a lock until the end of the transaction.

        Raises:
            VersionNotFound: there is none, or the caller is outside of its walls.
        """
        principal = context.caller_or_none()
        row = await _one(
            connection,
            "select key, walls from version where org = %s and model = %s and starts_with(digest, %s) for update",
            *(org, reference.model, f"{DIGEST}{reference.prefix}"),
        )
        if row is None or (principal is not None and not principal.walls.issuperset(row["walls"])):
            raise VersionNotFound(f"{reference.model}@{reference.prefix}")
        return await by_key(connection, row["key"])

    async def by_keys(self, keys: Sequence[int]) -> list[Row]:
        """Return versions by their keys in the database."""
        return await self.database.all("select * from version_state where key = any(%s)", list(keys))

    async def page(self, request: ListVersionsRequest) -> tuple[list[Row], str]:
        """Return a page of the versions that the caller sees, newest first, and the token of the next page."""
        principal = context.caller()
        size = request.page_size or PAGE_SIZE
        rows = await self._all(
            f"{SELECT} where {VISIBLE} and key < %(before)s"
            " and %(model)s in ('', model) and %(kind)s in ('', kind) and %(stage)s in ('', stage)"
            " order by key desc limit %(size)s",
            {
                **_scope(principal),
                "before": paging.number_of(request.page_token),
                "model": request.model,
                "kind": Model.Kind.Name(request.kind) if request.kind else "",
                "stage": ModelVersion.Stage.Name(request.stage) if request.stage else "",
                "size": size + 1,
            },
        )
        return rows[:size], str(rows[size - 1]["key"]) if len(rows) > size else ""

    async def usable(self, principal: Principal, limit: int) -> list[Row]:
        """Return the newest approved and live versions of the org that the caller sees."""
        return await self._all(
            f"{SELECT} where {VISIBLE} and org <> '' and stage in ('APPROVED', 'LIVE')"
            " order by key desc limit %(limit)s",
            {**_scope(principal), "limit": limit},
        )

    async def with_endpoints(self, limit: int) -> list[Row]:
        """Return the newest approved and live versions of all orgs that have an endpoint."""
        return await self.database.all(
            "select * from version_state where metadata ? 'endpoint' and stage in ('APPROVED', 'LIVE')"
            " order by key desc limit %s",
            limit,
        )

    async def register(
        self, version: Mapping[str, Any], files: Sequence[ModelFile], evaluations: Sequence[Evaluation], maximum: int
    ) -> Row:
        """Store a version, or return the existing one with the same content and metadata.

        Args:
            version: the columns model, digest, kind, engine, walls, metadata and contents.
            files: its files, which the org has uploaded.
            evaluations: evaluation results of a new version.
            maximum: the maximum number of versions of an org.

        Raises:
            Conflict: the version exists with other metadata, or another version has the same id.
            InvalidRequest: the org has too many versions, or a file is missing.
        """
        principal = context.caller()
        async with self.database.transaction() as connection:
            await lock(connection, f"versions/{principal.org}")
            if existing := await _existing(connection, principal.org, version["model"], version["digest"]):
                return await self._same(connection, existing, version, principal)
            row = await _one(connection, "select count(*) as n from version where org = %s", principal.org)
            if row and row["n"] >= maximum:
                raise InvalidRequest(f"the org has {row['n']} model versions, the maximum (the setting max_versions)")
            key = await self._insert(connection, principal, version, files)
            for evaluation in evaluations:
                await _insert_evaluation(connection, key, evaluation, principal.key)
            details = {"digest": version["digest"], "kind": version["kind"], "engine": version["engine"]}
            details |= {"files": len(files), "walls": version["walls"], "metadata": version["metadata"]}
            id_ = version_id(version["model"], version["digest"])
            await self.record(connection, "register", {"id": id_, "org": principal.org}, details)
            return await by_key(connection, key)

    async def add_evaluation(self, name: str, evaluation: Evaluation, request_id: str = "") -> Row:
        """Add an evaluation result, unless a request with this id has added one.

        Raises:
            VersionNotFound: the caller sees no such version of its org.
            InvalidRequest: the version has too many results.
        """
        principal = context.caller()
        async with self.database.transaction() as connection:
            row = await locked(connection, principal, name)
            repeated = "select from evaluation where version = %s and request_id = %s and request_id <> ''"
            if await _one(connection, repeated, row["key"], request_id) is not None:
                return row
            count = await _one(connection, "select count(*) as n from evaluation where version = %s", row["key"])
            if count and count["n"] >= MAX_EVALUATIONS:
                raise InvalidRequest(f"{row['id']!r} has {count['n']} evaluation results, the maximum")
            await _insert_evaluation(connection, row["key"], evaluation, principal.key, request_id)
            details = {"suite": evaluation.suite, "data": evaluation.data, "metrics": dict(evaluation.metrics)}
            await self.record(connection, "evaluate", row, details)
            return await by_key(connection, row["key"])

    async def retire(self, name: str, reason: str) -> Row:
        """Retire a version; a retired version stays as it is."""
        principal = context.caller()
        async with self.database.transaction() as connection:
            row = await locked(connection, principal, name)
            if row["retired_at"] is None:
                await connection.execute(
                    "update version set retired_at = clock_timestamp(), retired_by = %s, retire_reason = %s"
                    " where key = %s",
                    (principal.key, reason, row["key"]),
                )
                await self.record(connection, "retire", row, {"reason": reason, "stage_before": row["stage"]})
                await notify(connection)
            return await by_key(connection, row["key"])

    async def files(self, key: int) -> list[ModelFile]:
        """Return the files of a version, sorted by path."""
        rows = await self.database.all(
            'select path, sha256, size from version_file where version = %s order by path collate "C"',
            key,
        )
        return [ModelFile(path=row["path"], sha256=row["sha256"], size=row["size"]) for row in rows]

    async def evaluations(self, key: int) -> list[Row]:
        """Return the evaluation results of a version, newest first."""
        return await self.database.all("select * from evaluation where version = %s order by key desc", key)

    async def aliases(self, keys: Sequence[int]) -> dict[int, list[str]]:
        """Return the aliases that name versions, by the keys of the versions."""
        rows = await self.database.all(
            "select version, array_agg(name order by name) as names from alias where version = any(%s)"
            " group by version",
            list(keys),
        )
        return {row["version"]: row["names"] for row in rows}

    async def record(
        self, connection: Connection, action: str, row: Mapping[str, Any], details: Mapping[str, Any]
    ) -> None:
        """Write the audit record of a change of a version."""
        await self.audit.record(
            f"model_version.{action}",
            f"model_version/{row['id']}",
            details={"org": row["org"], **details},
            connection=connection,
        )

    async def _all(self, query: LiteralString, parameters: Mapping[str, Any]) -> list[Row]:
        async with self.database.transaction() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def _same(
        self, connection: Connection, existing: Row, version: Mapping[str, Any], principal: Principal
    ) -> Row:
        if not principal.walls.issuperset(existing["walls"]):
            # Also in the words of the other case: the caller must not learn of a version behind a wall.
            raise Conflict("another version of the org has this content and other metadata", param="files")
        for column in ("kind", "engine", "walls", "metadata"):
            if existing[column] != version[column]:
                raise Conflict(
                    f"{existing['id']!r} exists with other metadata ({_difference(existing, version, column)}); "
                    "a version is immutable: register the same metadata, or other files",
                    param=column if column != "metadata" else "files",
                )
        return await by_key(connection, existing["key"])

    async def _insert(
        self, connection: Connection, principal: Principal, version: Mapping[str, Any], files: Sequence[ModelFile]
    ) -> int:
        id_ = version_id(version["model"], version["digest"])
        taken = await _one(connection, "select 1 from version where org = %s and id = %s", principal.org, id_)
        if taken:
            raise Conflict(f"another version has the id {id_!r}: change a file, such as a README, and register again")
        row = await _one(
            connection,
            "insert into version (org, desk, model, digest, kind, engine, walls, metadata, contents, registered_by)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning key",
            *(principal.org, principal.desk, version["model"], version["digest"], version["kind"], version["engine"]),
            *(version["walls"], Jsonb(version["metadata"]), Jsonb(version["contents"]), principal.key),
        )
        assert row is not None
        key = int(row["key"])
        for file in files:
            stored = await _one(
                connection,
                "select size from model_file where org = %s and sha256 = %s for share",
                *(principal.org, file.sha256),
            )
            if stored is None:
                raise InvalidRequest(f"{file.path} is no longer stored: upload it again", param="files")
            await connection.execute(
                "insert into version_file (version, org, path, sha256, size, stored) values (%s, %s, %s, %s, %s, %s)",
                (key, principal.org, file.path, file.sha256, stored["size"], file.sha256),
            )
        return key


async def visible(connection: Connection, principal: Principal, name: str) -> Row:
    """Return a version that the caller sees.

    Raises:
        VersionNotFound: there is none.
    """
    reference = parse(name)
    row = await _find(connection, reference, principal) if reference else None
    if row is None:
        raise VersionNotFound(name)
    return row


async def locked(connection: Connection, principal: Principal, name: str) -> Row:
    """Return a version that the caller can change, with a lock until the end of the transaction.

    Raises:
        VersionNotFound: the caller sees no such version.
        Forbidden: it is of the settings, and the caller lacks `platform:admin`.
    """
    row = await visible(connection, principal, name)
    if not row["org"]:
        tenancy.check_change(tenancy.PLATFORM)
    await connection.execute("select from version where key = %s for update", (row["key"],))
    return await by_key(connection, row["key"])


async def by_key(connection: Connection, key: int) -> Row:
    """Return the existing version with a key."""
    row = await _one(connection, "select * from version_state where key = %s", key)
    assert row is not None
    return row


async def lock(connection: Connection, name: str) -> None:
    """Lock a name until the end of the transaction."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


async def notify(connection: Connection) -> None:
    """Notify all processes of a change that affects routing."""
    await connection.execute(f"notify {CHANNEL}".encode())


async def _find(connection: Connection, reference: VersionName, principal: Principal | None) -> Row | None:
    parameters = {**_scope(principal), "model": reference.model, "digest": f"{DIGEST}{reference.prefix}"}
    rows = await (await connection.execute(LOOKUP, parameters)).fetchall()
    return rows[0] if rows else None


async def _existing(connection: Connection, org: str, model: str, digest: str) -> Row | None:
    return await _one(
        connection, "select * from version where org = %s and model = %s and digest = %s", org, model, digest
    )


async def _insert_evaluation(
    connection: Connection, key: int, evaluation: Evaluation, by: str, request_id: str = ""
) -> None:
    await connection.execute(
        "insert into evaluation (version, suite, data, metrics, added_by, request_id) values (%s, %s, %s, %s, %s, %s)",
        (key, evaluation.suite, evaluation.data, Jsonb(dict(evaluation.metrics)), by, request_id),
    )


async def _one(connection: Connection, query: LiteralString, *args: Any) -> Row | None:
    return await (await connection.execute(query, args)).fetchone()


def _scope(principal: Principal | None) -> dict[str, Any]:
    return {"org": principal.org if principal else "", "walls": sorted(principal.walls) if principal else []}


def _difference(existing: Row, version: Mapping[str, Any], column: str) -> str:
    if column != "metadata":
        return column
    old, new = existing["metadata"], version["metadata"]
    return ", ".join(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))
