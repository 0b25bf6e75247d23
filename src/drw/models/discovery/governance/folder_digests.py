"""Digests of the folders that models of the settings name. A folder is hashed again only if a file of it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from drw.kernel.errors import DrwError
from drw.model_files.manifest import ModelFolder, Stamp


class FolderDigests:
    """Keeps the digest of each folder with the stamps (device, inode, size and times) of its files.

    Args:
        folders: the folders by the ids of their models.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = folders
        self._known: dict[str, tuple[dict[str, Stamp], str]] = {}
        self.digests: dict[str, str] = {}
        """By model: "sha256:" and 64 hexadecimal digits. Of a folder that cannot be read, the last one."""
        self.errors: dict[str, str] = {}
        """By model: why its folder cannot be read."""

    async def refresh(self) -> bool:
        """Read the folders that changed; return whether a digest or an error is another one than before."""
        before = dict(self.digests), dict(self.errors)
        for model, folder in self._folders.items():
            try:
                self.digests[model] = await asyncio.to_thread(self._digest, folder)
                self.errors.pop(model, None)
            except DrwError as error:
                self.errors[model] = error.message
            except OSError as error:
                self.errors[model] = f"{error.strerror}"
        return before != (self.digests, self.errors)

    def _digest(self, path: str) -> str:
        with ModelFolder(Path(path)) as folder:
            known = self._known.get(path)
            if known is not None and known[0] == folder.stamps:
                return known[1]
            digest = folder.manifest().digest
            folder.check_unchanged()
            self._known[path] = folder.stamps, digest
            return digest
