"""Versions: uploads, registration, identity, immutability, isolation and listings."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from drw.api.models.v1.discovery_pb2 import (
    GetVersionBomRequest,
    ListVersionsRequest,
    Model,
    ModelFile,
    ModelVersion,
    ReadModelFileRequest,
    RegisterVersionRequest,
    ResolveModelRequest,
)
from drw.api.models.v1.versions_pb2 import (
    AddEvaluationRequest,
    Evaluation,
    GetVersionRequest,
    Lineage,
    VersionEndpoint,
)
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.model_files.errors import ModelRejected, SignatureRejected
from drw.model_files.manifest import FileEntry, digest
from drw.model_files.verification import FilesDiffer, check_folder
from drw.models.discovery.versions.file_store import FileStore
from model_files.builders import write_gguf, write_onnx
from model_files.signers import Draft, private_key, public_pem
from models.registry.harness import RegistryWorld, registry_world
from support.json_types import Json, JsonObject


@pytest.fixture
async def world(profile: Profile) -> AsyncIterator[RegistryWorld]:
    async with registry_world(profile) as running:
        yield running


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx").read_bytes()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def request(*files: tuple[str, str], kind: Model.Kind = Model.CHAT, **fields: Json) -> RegisterVersionRequest:
    listed = [ModelFile(path=path, sha256=sha256) for path, sha256 in files]
    values: JsonObject = {"model": "chat", "owner": "desk", "kind": kind, "files": listed, **fields}
    return RegisterVersionRequest(**values)


async def register(world: RegistryWorld, *files: tuple[str, str], **fields: Json) -> ModelVersion:
    with acting_for(world.developer):
        return await world.client.register_version(request(*files, **fields))


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_endpoint_versions_are_named_by_their_description(profile: Profile, how: str) -> None:
    async with registry_world(profile, how) as world:
        version = await world.registered(lineage=Lineage(data=["ledger"], parent="base", training_run="run-7"))
        assert version.id == f"fraud@{version.digest.removeprefix('sha256:')[:12]}"
        assert (version.stage, version.blocked != "") == (ModelVersion.REGISTERED, True)
        assert version == await world.registered(lineage=Lineage(data=["ledger"], parent="base", training_run="run-7"))
        assert (await world.registered(upstream_model="m2")).id != version.id
        with pytest.raises(Conflict, match=r"other metadata \(lineage\)"):
            await world.registered()
    assert [record["resource"] for record in world.audit("model_version.register")][:1] == [
        f"model_version/{version.id}"
    ]


async def test_files_are_checked_described_and_named_by_their_digest(
    world: RegistryWorld, gguf: bytes, onnx: bytes, tmp_path: Path
) -> None:
    readme = b"# A chat model"
    hashes = await world.uploaded(gguf, readme, onnx)
    version = await register(world, ("weights/model.gguf", hashes[0]), ("README.md", hashes[1]))
    folder = tmp_path / "chat"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights/model.gguf").write_bytes(gguf)
    (folder / "README.md").write_bytes(readme)
    assert version.digest == digest(folder).digest
    assert (version.format, version.engine, version.context_length) == ("gguf", "llama_cpp", 4096)
    assert version.licence == "apache-2.0"
    entries = [FileEntry(file.path, file.size, file.sha256) for file in version.files]
    check_folder(folder, entries, version.digest)
    (folder / "README.md").write_bytes(b"# Another one")
    with pytest.raises(FilesDiffer, match="README.md differs"):
        check_folder(folder, entries, version.digest)
    (folder / "README.md").write_bytes(readme)
    (folder / "extra.txt").write_text("x")
    with pytest.raises(FilesDiffer, match="extra.txt is not a file of the version"):
        check_folder(folder, entries, version.digest)
    predictive = await register(world, ("model.onnx", hashes[2]), kind=Model.PREDICTIVE)
    assert [(t.name, t.datatype, list(t.shape)) for t in predictive.inputs] == [("x", "FP32", [-1, 4])]
    with acting_for(world.developer):
        bom = json_value((await world.client.get_version_bom(GetVersionBomRequest(id=version.id))).bom)
        with pytest.raises(InvalidRequest, match="can be: PREDICTIVE"):
            await world.client.register_version(request(("model.onnx", hashes[2]), kind=Model.CHAT))
    assert (bom["bomFormat"], bom["metadata"]["component"]["version"]) == ("CycloneDX", version.digest)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("model.pkl", pickle.dumps({"a": 1}), "model.pkl"),
        ("model.gguf", pickle.dumps({"a": 1}), "model.gguf"),
        ("model.gguf", b"GGUF", "model.gguf"),
        ("run.py", b"import os", "run.py"),
    ],
)
async def test_pickle_code_and_malformed_files_are_refused(
    world: RegistryWorld, gguf: bytes, path: str, content: bytes, message: str
) -> None:
    hashes = await world.uploaded(gguf, content)
    with pytest.raises(ModelRejected, match=message):
        await register(world, ("weights.gguf", hashes[0]), (path, hashes[1]))


@pytest.mark.parametrize(
    "paths",
    [
        ("../model.gguf",),
        ("/etc/model.gguf",),
        ("a/../../model.gguf",),
        ("a//model.gguf",),
        ("./model.gguf",),
        ("a\\model.gguf",),
        ("a\nmodel.gguf",),
        ("a", "a/model.gguf"),
        ("model.gguf", "model.gguf"),
        (f"{'x' * 300}/model.gguf",),
        (".git/model.gguf", "model.gguf"),
    ],
)
async def test_paths_stay_below_the_folder_of_the_model(
    world: RegistryWorld, gguf: bytes, paths: tuple[str, ...]
) -> None:
    (uploaded,) = await world.uploaded(gguf)
    with pytest.raises(InvalidRequest):
        await register(world, *((path, uploaded) for path in paths))
    assert not [path for path in world.profile.data.rglob("*.gguf")]


async def test_uploads_are_verified_and_idempotent(world: RegistryWorld, gguf: bytes) -> None:
    path = f"/api/v1/model-files/{sha(gguf)}"

    async def half() -> AsyncIterator[bytes]:
        yield gguf[:100]

    async with world.http(world.developer) as http:
        assert (await http.head(path)).status_code == 404
        for wrong in (b"other", b"", gguf[:-1]):
            answer = await http.put(path, content=wrong)
            assert answer.status_code == 400, answer.text
        assert (await http.put(path, content=half())).status_code == 400
        assert (await http.head(path)).status_code == 404
        answers = await asyncio.gather(*(http.put(path, content=gguf) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert (await http.head(path)).status_code == 200
        assert (await http.put("/api/v1/model-files/xyz", content=b"x")).status_code == 400
    assert len(world.audit("model_file.upload")) == 1
    assert not list((world.profile.data / "discovery/incoming").iterdir())


async def test_knowing_a_digest_gives_no_access_to_the_file_of_another_org(world: RegistryWorld, gguf: bytes) -> None:
    (uploaded,) = await world.uploaded(gguf)
    version = await register(world, ("model.gguf", uploaded))
    async with world.http(world.stranger) as http:
        assert (await http.head(f"/api/v1/model-files/{uploaded}")).status_code == 404
    with acting_for(world.stranger):
        with pytest.raises(NotFound, match="has not uploaded"):
            await world.client.register_version(request(("model.gguf", uploaded)))
        with pytest.raises(NotFound):
            await anext(world.client.read_model_file(ReadModelFileRequest(sha256=uploaded)))
        with pytest.raises(NotFound):
            await world.client.get_version(GetVersionRequest(id=version.id))
        assert not (await world.client.list_versions(ListVersionsRequest(model="chat"))).versions
    await world.uploaded(gguf, by=world.stranger)
    with acting_for(world.stranger):  # its own copy is its own version, with the same id
        own = await world.client.register_version(request(("model.gguf", uploaded), owner="rival"))
    assert (own.id, own.owner) == (version.id, "rival")


async def test_services_read_files_and_notice_changes_on_disk(world: RegistryWorld, gguf: bytes) -> None:
    (uploaded,) = await world.uploaded(gguf)
    await register(world, ("model.gguf", uploaded))

    async def read(offset: int = 0) -> bytes:
        stream = world.client.read_model_file(ReadModelFileRequest(sha256=uploaded, offset=offset))
        return b"".join([chunk.data async for chunk in stream])

    assert (await read(), await read(10)) == (gguf, gguf[10:])
    with pytest.raises(InvalidRequest, match="offset"):
        await read(len(gguf) + 1)
    (stored,) = (path for path in (world.profile.data / "discovery/files").rglob(uploaded))
    stored.chmod(0o600)
    stored.write_bytes(bytes(len(gguf)))
    with pytest.raises(Unavailable, match="damaged"):
        await read()
    with pytest.raises((Unavailable, ModelRejected, InvalidRequest)):
        await register(world, ("model.gguf", uploaded), model="again")
    stored.write_bytes(gguf[:-1])
    with pytest.raises(NotFound, match="has not uploaded"):
        await register(world, ("model.gguf", uploaded), model="again")


async def test_uploads_and_versions_of_an_org_are_bounded(profile: Profile, gguf: bytes) -> None:
    limits: JsonObject = {"max_file_bytes": 2000, "max_org_bytes": 3000, "max_versions": 1, "max_uploads": 1}
    async with registry_world(profile, **limits) as world:
        await world.uploaded(b"x" * 2000)
        async with world.http(world.developer) as http:
            for content in (b"y" * 2001, b"z" * 1500):
                answer = await http.put(f"/api/v1/model-files/{sha(content)}", content=content)
                assert (answer.status_code, "maximum" in answer.text or "at most" in answer.text) == (413, True)
        await world.uploaded(b"z" * 1500, by=world.stranger)  # another org has its own quota
        await world.registered()
        with pytest.raises(InvalidRequest, match="max_versions"):
            await world.registered(upstream_model="m2")
        await world.registered()  # an existing one needs no room


async def test_unused_files_are_removed_and_used_ones_stay(world: RegistryWorld, gguf: bytes) -> None:
    hashes = await world.uploaded(gguf, b"unused")
    await register(world, ("model.gguf", hashes[0]))
    database = Database(world.profile.postgres, "discovery")
    await database.start("drw.models.discovery")
    store = FileStore(database, world.host.audit("discovery"), world.profile.data / "discovery", 1 << 20, 1 << 20)
    orphan = store.path("acme", "0" * 64)
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.write_bytes(b"x")
    await store.remove_unused(86_400)
    async with world.http(world.developer) as http:
        assert (await http.head(f"/api/v1/model-files/{hashes[1]}")).status_code == 200
        await store.remove_unused(0)
        assert (await http.head(f"/api/v1/model-files/{hashes[1]}")).status_code == 404
        assert (await http.head(f"/api/v1/model-files/{hashes[0]}")).status_code == 200
    assert not orphan.exists()
    await database.stop()


async def test_signatures_are_verified_and_can_be_required(profile: Profile, gguf: bytes, tmp_path: Path) -> None:
    key, folder = private_key(), tmp_path / "chat"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(gguf)
    (tmp_path / "key.pem").write_bytes(public_pem(key))
    bundle = Draft.of(folder, key).data
    forged = Draft.of(folder, private_key()).data
    trusted = [str(tmp_path / "key.pem")]
    async with registry_world(profile, require_signature=True, trusted_keys=trusted) as world:
        hashes = await world.uploaded(gguf, bundle, forged)
        with pytest.raises(SignatureRejected, match="require_signature"):
            await register(world, ("model.gguf", hashes[0]))
        with pytest.raises(SignatureRejected):
            await register(world, ("model.gguf", hashes[0]), signature_sha256=hashes[2])
        version = await register(world, ("model.gguf", hashes[0]), signature_sha256=hashes[1])
        assert version.signer.startswith("key ")


async def test_endpoints_need_a_permitted_address_and_key(profile: Profile) -> None:
    keys = {"VLLM_KEY": ["127.0.0.1:8000"]}
    async with registry_world(profile, allowed_endpoints=["127.0.0.1/32"], endpoint_keys=keys) as world:

        async def attempt(url: str, variable: str = "") -> ModelVersion:
            endpoint = VersionEndpoint(base_urls=[url], upstream_model="m", api_key_variable=variable)
            return await world.registered(endpoint=endpoint)

        for url in ("http://10.0.0.7/v1", "http://169.254.169.254/v1", "file:///etc/passwd", "http://2130706433/v1"):
            with pytest.raises(InvalidRequest):
                await attempt(url)
        for url, variable in (("http://127.0.0.1:8000/v1", "DRW_SECRET"), ("http://127.0.0.1:9000/v1", "VLLM_KEY")):
            with pytest.raises(Forbidden, match="endpoint_keys"):
                await attempt(url, variable)
        assert (await attempt("http://127.0.0.1:8000/v1", "VLLM_KEY")).endpoint.api_key_variable == "VLLM_KEY"


async def test_stored_versions_cannot_be_changed(world: RegistryWorld) -> None:
    version = await world.registered()
    changes = ("update discovery.version set digest = 'x'", "delete from discovery.version")
    for change in (*changes, "update discovery.alias_history set reason = 'x'"):
        with psycopg.connect(world.profile.postgres) as connection:
            connection.execute("insert into discovery.alias_history (org, name, changed_by) values ('', 'a', 'x')")
            with pytest.raises(psycopg.errors.RaiseException, match="cannot be changed"):
                connection.execute(change)
    with acting_for(world.developer):
        evaluation = Evaluation(suite="auc", data="2026-Q3", metrics={"auc": 0.9})
        for _ in range(2):
            request = AddEvaluationRequest(id=version.id, evaluation=evaluation, request_id="run-1/record")
            version = await world.client.add_evaluation(request)
        with pytest.raises(InvalidRequest, match="nan"):
            bad = Evaluation(suite="auc", metrics={"auc": float("nan")})
            await world.client.add_evaluation(AddEvaluationRequest(id=version.id, evaluation=bad))
    assert [(e.suite, dict(e.metrics), e.by) for e in version.evaluations] == [
        ("auc", {"auc": 0.9}, world.developer.key)
    ]


async def test_ten_thousand_versions_are_listed_in_pages(world: RegistryWorld) -> None:
    with psycopg.connect(world.profile.postgres) as connection:
        connection.execute(
            "insert into discovery.version (org, desk, model, digest, kind, engine, walls, metadata, contents,"
            " registered_by) select 'acme', 'research', 'many', 'sha256:' || encode(sha256(n::text::bytea), 'hex'),"
            " 'CHAT', 'openai', '{}', '{\"owner\": \"o\", \"licence\": \"\", \"description\": \"\"}', '{}', 'key'"
            " from generate_series(1, 10000) n"
        )
    seen: list[str] = []
    token = ""
    with acting_for(world.developer):
        while True:
            page = await world.client.list_versions(ListVersionsRequest(model="many", page_size=1000, page_token=token))
            seen += [version.id for version in page.versions]
            if not (token := page.next_page_token):
                break
        assert (len(seen), len(set(seen))) == (10_000, 10_000)
        assert len((await world.client.list_versions(ListVersionsRequest())).versions) == 100
        with pytest.raises(NotFound):
            await world.client.resolve_model(ResolveModelRequest(id="many@000000000000"))
