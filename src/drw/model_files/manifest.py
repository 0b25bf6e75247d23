"""Manifest and digest of a model: names, sizes and SHA-256 digests of its files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from drw.model_files.errors import FilesChanged, ModelRejected
from drw.model_files.limits import DEFAULT, Limits

SCHEMA = "drw-model-manifest/1"
IGNORED = frozenset((".git", ".gitattributes", ".github", ".gitignore"))
"""Ignored at the top of a model folder, as OpenSSF Model Signing v1.0 (section 6.2) requires."""
BLOCK = 1 << 20
READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block the open


class FileEntry(NamedTuple):
    """One file of a model. `path` is relative, with `/`; `sha256` is hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a model, sorted by path."""

    name: str
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        """The identity of the model: `sha256:` and the SHA-256 of the canonical manifest."""
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"

    @property
    def root_digest(self) -> str:
        """The subject digest of OpenSSF Model Signing v1.0 (section 6.5.1). It does not cover file names."""
        return hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in self.files)).hexdigest()

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(file.size for file in self.files)

    def canonical(self) -> bytes:
        """Return the manifest as JSON with sorted keys, without spaces, in UTF-8."""
        value = {"files": [file._asdict() for file in self.files], "schema": SCHEMA}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


class Stamp(NamedTuple):
    """Changes whenever a file is replaced or written."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a file."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class ModelFolder:
    """Read access to the regular files of a model: a folder, or a single file.

    Every path component is opened with O_NOFOLLOW, so a symbolic link never leads elsewhere. Use as a context manager.

    Args:
        path: the folder or file.
        exclude: relative paths of files and folders to leave out, such as the signature bundle.

    Raises:
        ModelRejected: a symbolic link, special file, invalid name, or more files or bytes than the limits permit.
        OSError: the path cannot be read.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT, exclude: Collection[str] = ()) -> None:
        status = path.stat()
        self.single = stat.S_ISREG(status.st_mode)
        if not self.single and not stat.S_ISDIR(status.st_mode):
            raise ModelRejected(f"{path.name} is neither a file nor a folder")
        path = path.resolve() if not self.single else path.parent.resolve() / path.name
        self.name = path.name
        self._limits = limits
        self._exclude = frozenset(exclude)
        self._root = os.open(path.parent if self.single else path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            self.stamps = self._list()
        except BaseException:
            os.close(self._root)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._root)

    def open(self, path: str) -> int:
        """Return a file descriptor of a listed file. The caller closes it.

        Raises:
            FilesChanged: the file is not the listed one.
        """
        *folders, name = path.split("/")
        parent = os.dup(self._root)
        try:
            for folder in folders:
                child = os.open(folder, READ_ONLY | os.O_DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = child
            descriptor = os.open(name, READ_ONLY, dir_fd=parent)
        except OSError as error:
            raise FilesChanged(f"{path} changed during the check: {error.strerror}") from error
        finally:
            os.close(parent)
        if Stamp.of(os.fstat(descriptor)) != self.stamps[path]:
            os.close(descriptor)
            raise FilesChanged(f"{path} changed during the check")
        return descriptor

    def manifest(self) -> Manifest:
        """Hash all files.

        Raises:
            FilesChanged: a file changed while it was read.
        """
        return Manifest(self.name, tuple(self._entry(path) for path in self.stamps))

    def check_unchanged(self) -> None:
        """Compare the folder with its listing.

        Raises:
            FilesChanged: a file was added, removed, replaced or written since.
        """
        now = self._list()
        for path in sorted(now.keys() | self.stamps.keys()):
            if now.get(path) != self.stamps.get(path):
                raise FilesChanged(f"{path} changed during the check")

    def _entry(self, path: str) -> FileEntry:
        hasher = hashlib.sha256()
        size = 0
        with os.fdopen(self.open(path), "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                size += len(block)
                if size > self.stamps[path].size:
                    break
                hasher.update(block)
            if size != self.stamps[path].size or Stamp.of(os.fstat(file.fileno())) != self.stamps[path]:
                raise FilesChanged(f"{path} changed during the check")
        return FileEntry(path, size, hasher.hexdigest())

    def _list(self) -> dict[str, Stamp]:
        if self.single:
            _check_name(self.name, self.name)
            status = os.stat(self.name, dir_fd=self._root, follow_symlinks=False)
            listed = {self.name: _regular(self.name, status)}
        else:
            listed = {}
            for path, stamp in self._walk(self._root, "", 0):
                listed[path] = stamp
                if len(listed) > self._limits.files:
                    raise ModelRejected(f"the model has more than {self._limits.files:,} files")
        if not listed:
            raise ModelRejected("the model has no files")
        if (total := sum(stamp.size for stamp in listed.values())) > self._limits.total_bytes:
            raise ModelRejected(f"the model has {total:,} bytes; the maximum is {self._limits.total_bytes:,}")
        return dict(sorted(listed.items()))

    def _walk(self, folder: int, prefix: str, depth: int) -> Iterator[tuple[str, Stamp]]:
        if depth > self._limits.folder_depth:
            raise ModelRejected(f"{prefix} is nested deeper than {self._limits.folder_depth} folders")
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if path in self._exclude or path in IGNORED:
                    continue
                _check_name(entry.name, path)
                if len(path) > self._limits.path_characters:
                    raise ModelRejected(f"the path {path[:60]!r}... exceeds {self._limits.path_characters} characters")
                if entry.is_dir(follow_symlinks=False):
                    child = os.open(entry.name, READ_ONLY | os.O_DIRECTORY, dir_fd=folder)
                    try:
                        yield from self._walk(child, f"{path}/", depth + 1)
                    finally:
                        os.close(child)
                else:
                    yield path, _regular(path, os.stat(entry.name, dir_fd=folder, follow_symlinks=False))


def digest(path: Path, limits: Limits = DEFAULT, exclude: Collection[str] = ()) -> Manifest:
    """Return the manifest of a model folder or file; `Manifest.digest` is its identity. Blocks: call it in a thread.

    Raises:
        ModelRejected: see `ModelFolder`.
        FilesChanged: a file changed while it was read.
    """
    with ModelFolder(path, limits, exclude) as folder:
        manifest = folder.manifest()
        folder.check_unchanged()
    return manifest


def _regular(path: str, status: os.stat_result) -> Stamp:
    if stat.S_ISLNK(status.st_mode):
        raise ModelRejected(f"{path} is a symbolic link; copy the file itself, for example with `cp -rL`")
    if not stat.S_ISREG(status.st_mode):
        raise ModelRejected(f"{path} is not a regular file")
    return Stamp.of(status)


def _check_name(name: str, path: str) -> None:
    # Without unprintable characters there are no control or direction characters and no invalid UTF-8.
    if not name.isprintable() or "\\" in name or name in (".", "..") or name != name.strip():
        raise ModelRejected(f"{path!r} is not a permitted file name: use printable characters without backslashes")
