"""Deletion of the files of retired versions: who may, when, and what stays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from drw.api.models.v1.discovery_pb2 import (
    GetVersionBomRequest,
    ListVersionsRequest,
    Model,
    ModelFile,
    ModelVersion,
    ReadModelFileRequest,
    RegisterVersionRequest,
)
from drw.api.models.v1.versions_pb2 import (
    ApproveVersionRequest,
    DeleteVersionFilesRequest,
    GetVersionRequest,
    RetireVersionRequest,
    RollbackAliasRequest,
)
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.routing import permits
from model_files.builders import write_onnx
from models.registry.harness import RegistryWorld, registry_world
from support.gateway.keys import issued


@pytest.fixture
async def world(profile: Profile) -> AsyncIterator[RegistryWorld]:
    async with registry_world(profile, permit_seconds=600) as running:
        yield running


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx").read_bytes()


async def register(world: RegistryWorld, model: str, *contents: bytes) -> ModelVersion:
    names = ["model.onnx", "README.md"]
    hashes = await world.uploaded(*contents)
    files = [ModelFile(path=name, sha256=sha256) for name, sha256 in zip(names, hashes, strict=False)]
    request = RegisterVersionRequest(model=model, owner="desk", kind=Model.PREDICTIVE, files=files)
    with acting_for(world.developer):
        return await world.client.register_version(request)


async def retire(world: RegistryWorld, version: ModelVersion) -> None:
    with acting_for(world.approver):
        await world.client.retire_version(RetireVersionRequest(id=version.id, reason="old"))


async def delete(world: RegistryWorld, version: ModelVersion, by: Principal | None = None) -> ModelVersion:
    with acting_for(by or world.approver):
        request = DeleteVersionFilesRequest(id=version.id, reason="space")
        return await world.client.delete_version_files(request)


def stored(world: RegistryWorld) -> set[str]:
    return {path.name for path in (world.profile.data / "discovery/files").glob("*/??/*")}


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = permits.now
    monkeypatch.setattr(permits, "now", lambda: now() + seconds)


async def test_files_go_and_the_record_stays(
    world: RegistryWorld, onnx: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await register(world, "one", onnx, b"the first")
    second = await register(world, "two", onnx)
    for refused in (first, second):
        with pytest.raises(Conflict, match="is not retired"):
            await delete(world, refused)
    await retire(world, first)
    with pytest.raises(Conflict, match=r"calls can use .* until .* UTC"):
        await delete(world, first)
    later(monkeypatch, 601)
    deleted = await delete(world, first)
    assert deleted == await delete(world, first)
    assert (deleted.files_deleted_by, deleted.stage) == (world.approver.key, ModelVersion.RETIRED)
    assert list(deleted.files) == list(first.files) and len(deleted.files) == 2
    shared = first.files[1].sha256
    assert shared == second.files[0].sha256 and stored(world) == {shared}
    with acting_for(world.developer):
        bom = await world.client.get_version_bom(GetVersionBomRequest(id=first.id))
        assert bom.bom.ByteSize()
        with pytest.raises(NotFound):
            await anext(aiter(world.client.read_model_file(ReadModelFileRequest(sha256=first.files[0].sha256))))
        assert await anext(aiter(world.client.read_model_file(ReadModelFileRequest(sha256=shared))))
    await retire(world, second)
    later(monkeypatch, 601)
    await delete(world, second)
    assert stored(world) == set()
    records = world.audit("model_version.delete_files")
    assert [(record["actor"], record["details"]["files"]) for record in records] == [
        (world.approver.key, n) for n in (2, 1)
    ]
    assert [record["details"]["bytes"] for record in records] == [9, len(onnx)]


async def test_only_the_org_deletes_with_the_scope_and_the_walls(
    world: RegistryWorld, onnx: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await register(world, "one", onnx)
    await retire(world, version)
    later(monkeypatch, 601)
    with pytest.raises(NotFound):
        await delete(world, version, by=world.stranger)
    writer = await issued(world.host, "models:read", "models:write")
    async with world.http(writer) as http:
        answer = await http.post(f"/api/v1/model-versions/{version.id}:deleteFiles", json={"reason": "space"})
        assert answer.status_code == 403, answer.text
    assert stored(world)
    endpoint = await world.registered()
    await retire(world, endpoint)
    with pytest.raises(InvalidRequest, match="has no uploaded files"):
        await delete(world, endpoint)
    with acting_for(world.developer):
        (settings,) = [
            version.id for version in (await world.client.list_versions(ListVersionsRequest(model="small"))).versions
        ]
    with acting_for(world.approver), pytest.raises(Forbidden):
        await world.client.delete_version_files(DeleteVersionFilesRequest(id=settings, reason="space"))


async def test_files_in_use_are_kept(world: RegistryWorld, onnx: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    version = await register(world, "one", onnx, b"x" * (3 << 20))
    await world.validated(version.id)
    with acting_for(world.approver):
        await world.client.approve_version(ApproveVersionRequest(id=version.id))
    await world.promoted("prod", version.id)
    await retire(world, version)
    later(monkeypatch, 601)
    with pytest.raises(Conflict, match="the alias 'prod' names"):
        await delete(world, version)
    with acting_for(world.developer):
        await world.client.rollback_alias(RollbackAliasRequest(name="prod", reason="gone"))
        chunks = aiter(world.client.read_model_file(ReadModelFileRequest(sha256=version.files[0].sha256)))
        await anext(chunks)
    with pytest.raises(Conflict, match="is being read"):
        await delete(world, version)
    async for _ in chunks:
        pass
    assert (await delete(world, version)).HasField("files_deleted_at")


async def test_the_same_files_can_be_uploaded_and_registered_again(
    world: RegistryWorld, onnx: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await register(world, "one", onnx)
    await retire(world, version)
    later(monkeypatch, 601)
    await delete(world, version)
    again = await register(world, "other", onnx)
    assert again.digest == version.digest and stored(world) == {again.files[0].sha256}
    with acting_for(world.developer):
        assert (await world.client.get_version(GetVersionRequest(id=version.id))).HasField("files_deleted_at")
