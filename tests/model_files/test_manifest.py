"""Digest of a model: canonical manifest, links and special files, limits, files that change."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from drw.model_files.errors import FilesChanged, ModelRejected
from drw.model_files.limits import Limits
from drw.model_files.manifest import ModelFolder, digest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "c.txt").write_bytes(b"one")
    (folder / "a.txt").write_bytes(b"two")
    (folder / "b.txt").write_bytes(b"")
    return folder


def test_digest_is_the_sha256_of_the_canonical_manifest(model: Path) -> None:
    manifest = digest(model)
    assert [file.path for file in manifest.files] == ["a.txt", "b.txt", "b/c.txt"]
    files = [
        {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for path, content in (("a.txt", b"two"), ("b.txt", b""), ("b/c.txt", b"one"))
    ]
    canonical = json.dumps({"files": files, "schema": "drw-model-manifest/1"}, separators=(",", ":")).encode()
    assert manifest.canonical() == canonical
    assert manifest.digest == f"sha256:{hashlib.sha256(canonical).hexdigest()}"
    joined = b"".join(hashlib.sha256(content).digest() for content in (b"two", b"", b"one"))
    assert manifest.root_digest == hashlib.sha256(joined).hexdigest()


def test_digest_covers_file_names_and_the_root_digest_does_not(model: Path) -> None:
    before = digest(model)
    (model / "a.txt").rename(model / "a.md")
    after = digest(model)
    assert after.digest != before.digest
    assert after.root_digest == before.root_digest


def test_digest_does_not_depend_on_the_folder_or_on_times(model: Path) -> None:
    before = digest(model).digest
    os.utime(model / "a.txt", (1, 1))
    moved = model.rename(model.with_name("other"))
    assert digest(moved).digest == before


def test_single_file_is_named_by_its_base_name(model: Path) -> None:
    manifest = digest(model / "b" / "c.txt")
    assert [file.path for file in manifest.files] == ["c.txt"]
    assert manifest.name == "c.txt"


def test_version_control_files_at_the_top_are_ignored(model: Path) -> None:
    before = digest(model).digest
    (model / ".git").mkdir()
    (model / ".git" / "link").symlink_to("/etc/passwd")
    (model / ".gitattributes").write_text("*.gguf filter=lfs")
    assert digest(model).digest == before
    (model / "b" / ".gitattributes").write_text("")
    assert digest(model).digest != before


def test_excluded_paths_are_left_out(model: Path) -> None:
    manifest = digest(model, exclude=("b", "b.txt"))
    assert [file.path for file in manifest.files] == ["a.txt"]


def test_symbolic_link_to_a_file_is_refused(model: Path) -> None:
    (model / "link.txt").symlink_to("a.txt")
    with pytest.raises(ModelRejected, match=r"link\.txt is a symbolic link"):
        digest(model)


def test_symbolic_link_to_a_folder_is_refused(model: Path) -> None:
    (model / "link").symlink_to("b")
    with pytest.raises(ModelRejected, match="link is a symbolic link"):
        digest(model)


def test_symbolic_link_as_a_single_file_is_refused(model: Path) -> None:
    (model / "link.txt").symlink_to("a.txt")
    with pytest.raises(ModelRejected, match=r"link\.txt is a symbolic link"):
        digest(model / "link.txt")


def test_fifo_is_refused_without_blocking(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(ModelRejected, match="pipe is not a regular file"):
        digest(model)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "\u202egnp.txt", " a", b"\xff\xfe"], ids=repr)
def test_misleading_file_name_is_refused(model: Path, name: str | bytes) -> None:
    descriptor = os.open(os.fsencode(model) + b"/" + os.fsencode(name), os.O_CREAT | os.O_WRONLY)
    os.close(descriptor)
    with pytest.raises(ModelRejected, match="is not a permitted file name"):
        digest(model)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(files=2), "more than 2 files"),
        (Limits(total_bytes=5), "has 6 bytes; the maximum is 5"),
        (Limits(folder_depth=0), "nested deeper than 0 folders"),
        (Limits(path_characters=6), "exceeds 6 characters"),
    ],
)
def test_limits_are_enforced(model: Path, limits: Limits, message: str) -> None:
    with pytest.raises(ModelRejected, match=message):
        digest(model, limits)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="the model has no files"):
        digest(tmp_path)


class GrowingFolder(ModelFolder):
    """Appends to each file after it is opened."""

    def open(self, path: str) -> int:
        descriptor = super().open(path)
        with (self.path / path).open("ab") as file:
            file.write(b"more")
        return descriptor

    path: Path


def test_file_that_grows_while_it_is_hashed_is_noticed(model: Path) -> None:
    with GrowingFolder(model) as folder:
        folder.path = model
        with pytest.raises(FilesChanged, match=r"a\.txt changed"):
            folder.manifest()


@pytest.mark.parametrize("change", ["write", "replace", "remove", "add"])
def test_change_after_hashing_is_noticed(model: Path, change: str) -> None:
    with ModelFolder(model) as folder:
        folder.manifest()
        file = model / "a.txt"
        match change:
            case "write":  # the same size and modification time
                before = file.stat()
                file.write_bytes(b"TWO")
                os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            case "replace":
                (model.parent / "new").write_bytes(b"two")
                (model.parent / "new").replace(file)
            case "remove":
                file.unlink()
            case "add":
                (model / "z.txt").write_bytes(b"")
        with pytest.raises(FilesChanged):
            folder.check_unchanged()


def test_file_replaced_by_a_symbolic_link_is_not_followed(model: Path) -> None:
    with ModelFolder(model) as folder:
        (model / "b").rename(model / "moved")
        (model / "b").symlink_to("moved")
        with pytest.raises(FilesChanged):
            folder.open("b/c.txt")
