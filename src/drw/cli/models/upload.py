"""Upload of the files of a model: only files that the org has not uploaded yet are sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drw.cli.api import Api
from drw.kernel.errors import InvalidRequest

PATH = "/api/v1/model-files"


def upload_files(api: Api, path: Path, signature: Path | None) -> dict[str, Any]:
    """Upload the files of a folder, or one file; return the fields of a registration that name them.

    Raises:
        InvalidRequest: the folder has a symbolic link or another file that cannot be part of a model.
    """
    from drw.model_files.manifest import digest

    if not path.exists():
        raise InvalidRequest(f"{path} does not exist")
    excluded = _inside(path, signature)
    manifest = digest(path, exclude=excluded)
    for file in manifest.files:
        _upload(api, path / file.path if path.is_dir() else path, file.sha256)
    fields: dict[str, Any] = {"files": [{"path": file.path, "sha256": file.sha256} for file in manifest.files]}
    if signature is not None:
        (bundle,) = digest(signature).files
        _upload(api, signature, bundle.sha256)
        fields["signature_sha256"] = bundle.sha256
    return fields


def _upload(api: Api, file: Path, sha256: str) -> None:
    if not api.exists(f"{PATH}/{sha256}"):
        api.put_file(f"{PATH}/{sha256}", file)


def _inside(folder: Path, file: Path | None) -> list[str]:
    """Return the relative path of a file inside the model, which is then not part of it."""
    if file is None or not folder.is_dir():
        return []
    resolved = file.parent.resolve() / file.name
    return [str(resolved.relative_to(folder.resolve()))] if resolved.is_relative_to(folder.resolve()) else []
