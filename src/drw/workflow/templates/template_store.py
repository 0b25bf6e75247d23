"""The template store: shipped templates, overridden by the operator's templates of the same name."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.storage.database import Database
from drw.workflow.templates import parser
from drw.workflow.templates.yaml_source import MAX_SOURCE_BYTES


class TemplateStore:
    """Reads the files on each request, so that an edit takes effect at once."""

    def __init__(self, database: Database, folder: Path | None) -> None:
        self._database = database
        self._folder = folder
        self._cache: dict[tuple[str, str], Template | str] = {}
        """The template of each source, or the reason why it is invalid."""
        self.invalid_files: list[str] = []
        """Invalid files of the folder, with reasons."""

    async def latest_versions(self) -> dict[str, Template]:
        """Return the newest version of every template, by name."""
        templates = {t.name: t for t in (self._template(source, location) for location, source in _shipped_sources())}
        invalid_files = []
        for file in sorted(self._folder.glob("*.yaml")) if self._folder else ():
            try:
                file_template = self._template(_read_file(file), file.name)
                templates[file_template.name] = file_template
            except InvalidRequest as error:
                invalid_files.append(error.message)
        self.invalid_files = invalid_files
        await self._store_versions(templates.values())
        return templates

    async def version(self, name: str, version: str) -> Template:
        """Return one version of a template, current or past.

        Raises:
            NotFound: the version never existed.
        """
        row = await self._database.one("select source from version where name = %s and version = %s", name, version)
        if row is None:
            raise NotFound(f"the template {name!r} never had the version {version!r}")
        return self._template(str(row["source"]).encode(), f"{name} {version[:12]}")

    def _template(self, source: bytes, location: str) -> Template:
        key = (location, hashlib.sha256(source).hexdigest())
        if key not in self._cache:
            try:
                self._cache[key] = parser.parse(source, location)
            except InvalidRequest as error:
                # Cached too, so that an expensive file is parsed once. The message is cached instead of the
                # exception, whose traceback grows each time it is raised.
                self._cache[key] = error.message
        if isinstance(outcome := self._cache[key], str):
            raise InvalidRequest(outcome)
        return outcome

    async def _store_versions(self, templates: Iterable[Template]) -> None:
        by_version = {t.version: t for t in templates}
        rows = await self._database.all("select version from version where version = any(%s)", list(by_version))
        for version in by_version.keys() - {row["version"] for row in rows}:
            await self._database.all(
                "insert into version (name, version, source) values (%s, %s, %s) on conflict do nothing returning name",
                by_version[version].name,
                version,
                by_version[version].source,
            )


def _shipped_sources() -> list[tuple[str, bytes]]:
    folder = resources.files(__package__) / "shipped"
    return sorted((f.name, f.read_bytes()) for f in folder.iterdir() if f.name.endswith(".yaml"))


def _read_file(file: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until there is a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise InvalidRequest(f"{file.name} is not a regular file")
            return handle.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{file.name} cannot be read: {error.strerror}") from error
