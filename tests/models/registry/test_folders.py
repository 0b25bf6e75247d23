"""With `require_validation`, the record of a model of the settings covers the files of its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drw.api.models.v1.discovery_pb2 import ResolvedModel, ResolveModelRequest
from drw.api.models.v1.versions_pb2 import ApproveVersionRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.model_files.manifest import Manifest, ModelFolder, digest
from drw.models.discovery import service
from drw.models.discovery.governance.folder_digests import FolderDigests
from drw.routing.permits import ModelNotValidated
from model_files.builders import write_onnx
from models.registry.harness import RegistryWorld, registry_world
from models.registry.test_gate import version_of
from support.gateway.keys import issued
from support.parts import until


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    write_onnx(path / "model.onnx")
    (path / "README.md").write_text("one")
    return path


async def approve(world: RegistryWorld, admins: list[Principal]) -> str:
    version = await version_of(world, "risk")
    await world.validated(version, by=admins[0])
    with acting_for(admins[1]):
        await world.client.approve_version(ApproveVersionRequest(id=version))
    return version


async def resolved(world: RegistryWorld) -> ResolvedModel:
    with acting_for(world.developer):
        return await world.client.resolve_model(ResolveModelRequest(id="risk"))


async def refused(world: RegistryWorld, reason: str) -> bool:
    try:
        await resolved(world)
    except ModelNotValidated as error:
        return reason in error.message
    return False


async def test_a_changed_file_ends_the_validation(
    profile: Profile, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FOLDER_SECONDS", 0.02)
    models = {"risk": {"kind": "predictive", "engine": "onnx", "folder": str(model)}}
    async with registry_world(profile, require_validation=True, models=models) as world:
        admins = [await issued(world.host, *world.developer.scopes, "platform:admin") for _ in range(2)]
        first = await approve(world, admins)
        # Serving loads no other files than those that the record covers.
        assert (await resolved(world)).model.digest == digest(model).digest
        (model / "README.md").write_text("two")
        await until(lambda: refused(world, "validation record"), "the refusal")
        await until(lambda: is_other(world, first), "the version of the changed files")
        await approve(world, admins)
        assert (await resolved(world)).model.digest == digest(model).digest
        (model / "README.md").unlink()
        (model / "README.md").symlink_to("model.onnx")
        await until(lambda: refused(world, "README.md is a symbolic link"), "the refusal of the link")
        (model / "README.md").unlink()
        (model / "README.md").write_text("one")
        await until(lambda: permitted(world, first), "the files of the first record")
    (model / "README.md").write_text("three")
    async with registry_world(profile, require_validation=True, models=models) as world:
        assert await refused(world, "validation record")


async def is_other(world: RegistryWorld, version: str) -> bool:
    return await version_of(world, "risk") != version


async def permitted(world: RegistryWorld, version: str) -> bool:
    return not await refused(world, "") and await version_of(world, "risk") == version


async def test_files_are_not_covered_without_the_setting(profile: Profile, model: Path) -> None:
    models = {"risk": {"kind": "predictive", "engine": "onnx", "folder": str(model)}}
    async with registry_world(profile, models=models) as world:
        before = await version_of(world, "risk")
        assert (await resolved(world)).model.digest == ""
    (model / "README.md").write_text("two")
    async with registry_world(profile, models=models) as world:
        assert await version_of(world, "risk") == before


async def test_only_changed_folders_are_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    manifest = ModelFolder.manifest

    def recorded(self: ModelFolder) -> Manifest:
        reads.append(self.name)
        return manifest(self)

    monkeypatch.setattr(ModelFolder, "manifest", recorded)
    digests = FolderDigests({"risk": str(model), "gone": str(model.parent / "gone")})
    assert await digests.refresh()
    assert (list(digests.digests), digests.errors) == (["risk"], {"gone": "No such file or directory"})
    assert not await digests.refresh() and reads == ["model"]
    status = (model / "README.md").stat()
    (model / "README.md").write_text("two")  # of the same size
    os.utime(model / "README.md", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await digests.refresh() and reads == ["model"] * 2
