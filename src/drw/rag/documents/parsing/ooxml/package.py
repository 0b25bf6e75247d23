"""Packages of XML parts in a ZIP archive (ECMA-376 part 2, and ODF), read within limits."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError, iterparse

from drw.rag.documents.ports import ParseFailed

DAMAGE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError, ParseError)
"""The errors that reading a damaged archive or part raises."""


class DamagedPart(Exception):
    """A part of the package is missing or malformed."""


class Relation(NamedTuple):
    """A relationship of a part to another part or to an external target."""

    kind: str
    """The last segment of its type, such as `slide`."""
    target: str
    """The name of the target part, or the address of an external target."""
    is_external: bool


class Package:
    """The parts of one file. Part names have no leading slash and are case-insensitive."""

    def __init__(self, file: Path | IO[bytes]) -> None:
        try:
            self._archive = zipfile.ZipFile(file)
        except DAMAGE_ERRORS as error:
            raise ParseFailed("this file is damaged, and cannot be unpacked") from error
        self._names = {name.replace("\\", "/").lstrip("/").lower(): name for name in self._archive.namelist()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._names

    def read(self, name: str) -> bytes:
        """Return the bytes of a part.

        Raises:
            DamagedPart: the part is missing or damaged.
        """
        try:
            return self._archive.read(self._names[name.lower()])
        except (KeyError, RuntimeError, *DAMAGE_ERRORS) as error:
            raise DamagedPart(f"part {name!r} is missing or damaged") from error

    def elements(self, name: str) -> Iterator[tuple[str, Element]]:
        """Yield `start` and `end` events of a part's elements, for parts too large for memory.

        Raises:
            DamagedPart: the part is missing or damaged; elements before the damage are yielded first.
        """
        try:
            with self._archive.open(self._names[name.lower()]) as content:
                if b"<!DOCTYPE" in content.read(4096).replace(b"\0", b""):  # it could define entities that expand
                    raise DamagedPart(f"part {name!r} declares a document type, which a part may not")
            with self._archive.open(self._names[name.lower()]) as content:
                yield from iterparse(content, ("start", "end"))
        except (KeyError, RuntimeError, *DAMAGE_ERRORS) as error:
            raise DamagedPart(f"part {name!r} is missing or damaged") from error

    def root(self, name: str) -> Element:
        """Return the root element of a part.

        Raises:
            DamagedPart: the part is missing or damaged.
        """
        root: Element | None = None
        for _, element in self.elements(name):
            root = element if root is None else root
        if root is None:
            raise DamagedPart(f"part {name!r} is empty")
        return root

    def recover(self, name: str) -> tuple[Element, bool]:
        """Return the root element of a part with the elements before any damage, and whether the part is complete.

        Raises:
            DamagedPart: the first element cannot be read.
        """
        root: Element | None = None
        try:
            for _, element in self.elements(name):
                root = element if root is None else root
        except DamagedPart:
            if root is None:
                raise
            return root, False
        return self.root(name) if root is None else root, True

    def relations(self, part: str) -> dict[str, Relation]:
        """Return the relationships of a part by their ids; the part `""` stands for the package."""
        folder, name = posixpath.split(part)
        try:
            root = self.root(posixpath.join(folder, "_rels", f"{name}.rels"))
        except DamagedPart:
            return {}
        relations: dict[str, Relation] = {}
        for element in root:
            target = element.get("Target", "")
            kind = element.get("Type", "").rpartition("/")[2]
            is_external = element.get("TargetMode") == "External"
            if not is_external:
                target = posixpath.normpath(posixpath.join("/", folder, unquote(target))).lstrip("/")
            relations[element.get("Id", "")] = Relation(kind, target, is_external)
        return relations

    def main_part(self, default: str) -> str:
        """Return the name of the main document part."""
        relations = self.relations("").values()
        target = next((r.target for r in relations if r.kind == "officeDocument" and r.target in self), "")
        return target or default
