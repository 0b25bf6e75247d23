"""Models of the settings as versions: each has the digest of its settings, and can need a validation record.

If they need one, the digest covers the files of their folders too: a change of a file ends the validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drw.api.models.v1.discovery_pb2 import Permit
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.discovery.governance import permits
from drw.models.discovery.governance.folder_digests import FolderDigests
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.registry import Registry
from drw.models.discovery.versions.messages import SETTINGS
from drw.models.discovery.versions.store import lock
from drw.routing.permits import ModelNotValidated

GONE = "it is no longer in the settings"


class ConfiguredVersions:
    """The versions of the configured models, in memory.

    Args:
        digests: the digests by model. They are updated when a file changes.
        required: whether a configured model needs a validation record.
        seconds: the longest validity of a permit.
    """

    def __init__(
        self, database: Database, registry: Registry, digests: dict[str, str], *, required: bool, seconds: float
    ) -> None:
        self._database = database
        self._registry = registry
        self._digests = digests
        self._files = FolderDigests(
            {name: model.folder for name, model in registry.models.items() if required and model.folder}
        )
        self._required = required
        self._seconds = seconds
        self._is_current = False
        self._rows: dict[str, Row] = {}

    async def register(self) -> None:
        """Register the configured models, and retire those that the settings no longer have."""
        async with self._database.transaction() as connection:
            await lock(connection, "versions/settings")
            for name in self._registry.models:
                await self._insert(connection, name)
            current = [f"{name} {digest}" for name, digest in self._digests.items()]
            await connection.execute(
                "update version set retired_at = null, retired_by = '', retire_reason = ''"
                " where org = '' and retired_by = %s and model || ' ' || digest = any(%s)",
                (SETTINGS, current),
            )
            await connection.execute(
                "update version set retired_at = clock_timestamp(), retired_by = %s, retire_reason = %s"
                " where org = '' and retired_at is null and model || ' ' || digest <> all(%s)",
                (SETTINGS, GONE, current),
            )

    async def read_folders(self) -> bool:
        """Register models whose files changed as other versions; return whether there are any."""
        if await self._files.refresh():
            self._digests.update(self._registry.digests(self._files.digests))
            self._is_current = False
        if self._is_current:
            return False
        await self.register()
        await self.load()
        self._is_current = True  # otherwise it is tried again
        return True

    def files_digest(self, model: str) -> str:
        """Return the digest that the files of a model must have; empty: any."""
        return self._files.digests.get(model, "")

    async def load(self) -> None:
        """Read the validation of the configured models."""
        rows = await self._database.all(
            "select * from version_state where org = '' and digest = any(%s)", [*self._digests.values()]
        )
        self._rows = {row["model"]: row for row in rows if self._digests.get(row["model"]) == row["digest"]}

    def permit(self, model: str) -> Permit:
        """Return the permit of a configured model.

        Raises:
            ModelNotValidated: models of the settings need a validation record, and it has no valid one.
        """
        if not self._required:
            return Permit(validation=SETTINGS)
        if problem := self._files.errors.get(model):
            raise ModelNotValidated(model, f"its folder cannot be checked: {problem}")
        if (row := self._rows.get(model)) is None or not self.is_current(row):
            raise ModelNotValidated(model, "it has no validation record (the setting require_validation)")
        try:
            return permits.permit(row, self._seconds)
        except ModelNotValidated as error:
            raise ModelNotValidated(model, f"{permits.refusal(row)} (version {row['id']})") from error

    def is_current(self, row: Row) -> bool:
        """Return whether a version is that of the current settings."""
        return bool(self._digests.get(row["model"]) == row["digest"])

    async def _insert(self, connection: Connection, name: str) -> None:
        settings = self._registry.models[name]
        metadata: Mapping[str, Any] = {
            "owner": settings.owned_by or settings.engine,
            "licence": settings.licence,
            "description": "",
        }
        await connection.execute(
            "insert into version (org, desk, model, digest, kind, engine, walls, metadata, contents, registered_by)"
            " values ('', '', %s, %s, %s, %s, '{}', %s, %s, %s) on conflict do nothing",
            (
                *(name, self._digests[name], settings.kind.upper(), settings.engine, Jsonb(metadata)),
                *(Jsonb({"context_length": settings.context_length}), SETTINGS),
            ),
        )
