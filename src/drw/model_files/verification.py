"""Check of stored model files against the file list and digest of their registered version, before they are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from drw.model_files.errors import ModelRejected
from drw.model_files.limits import DEFAULT, Limits
from drw.model_files.manifest import FileEntry, Manifest, digest

MAX_REASONS = 20


class FilesDiffer(ModelRejected):
    """The files are not those of the registered version."""


def check_folder(folder: Path, files: Iterable[FileEntry], expected: str, limits: Limits = DEFAULT) -> Manifest:
    """Check that a folder has exactly the files of a version. Blocks: call it in a thread.

    Args:
        folder: the folder that will be loaded.
        files: the file list of the version.
        expected: the digest of the version, "sha256:" and 64 hexadecimal digits.

    Raises:
        FilesDiffer: a file is missing, additional or different, or the list does not have the digest.
        ModelRejected: a symbolic link, special file or invalid name.
        FilesChanged: the files changed meanwhile.
        OSError: the folder cannot be read.
    """
    manifest = digest(folder, limits)
    check_manifest(manifest, files, expected)
    return manifest


def check_manifest(manifest: Manifest, files: Iterable[FileEntry], expected: str) -> None:
    """Check the manifest of a folder against the file list and the digest of a version.

    Raises:
        FilesDiffer: see `check_folder`.
    """
    found = {file.path: file for file in manifest.files}
    registered = {file.path: file for file in files}
    reasons = [
        *(f"{path} is missing" for path in registered if path not in found),
        *(f"{path} is not a file of the version" for path in found if path not in registered),
        *(
            f"{path} differs from the registered file"
            for path in found
            if registered.get(path, found[path]) != found[path]
        ),
    ]
    if reasons:
        raise FilesDiffer(*reasons[:MAX_REASONS])
    if manifest.digest != expected:
        raise FilesDiffer(f"the files have the digest {manifest.digest}; the version has {expected}")
