"""Files of registered versions: download from discovery, verification, cache; GGUF models and rerankers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from drw.api.models.v1 import discovery_rpc
from drw.api.models.v1.discovery_pb2 import ModelFileChunk, ReadModelFileRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.transport import LocalTransport
from drw.model_files.manifest import digest
from drw.models.serving.errors import ModelLoadFailed
from drw.models.serving.ports import FileReference, ModelSpec
from drw.models.serving.routing.rerankers import PooledReranker
from drw.models.serving.runtime.model_files import ModelFiles
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.settings import RuntimeSettings
from models.inference import onnx_models
from models.inference.running import infer, predictive, with_models

BLOCK = 100


class DoubleDiscovery(discovery_rpc.Discovery):
    """Streams files by their digest; the next streams can break or lie."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.requests: list[tuple[str, int]] = []
        self.breaks = 0
        self.wrong = False

    async def read_model_file(self, request: ReadModelFileRequest, /) -> AsyncIterator[ModelFileChunk]:
        self.requests.append((request.sha256, request.offset))
        content = self.contents[request.sha256]
        if self.wrong:
            content = bytes(len(content))
        for start in range(request.offset, len(content), BLOCK):
            yield ModelFileChunk(data=content[start : start + BLOCK])
            if self.breaks:
                self.breaks -= 1
                raise Unavailable("the connection broke")


class Registered:
    """A registered version of an ONNX model."""

    def __init__(self, folder: Path, cache: Path, max_mib: int = 100) -> None:
        onnx_models.scale(folder, 3.0)
        (folder / "README.md").write_text("text " * 100)
        self.content = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.discovery = DoubleDiscovery({sha256(data).hexdigest(): data for data in self.content.values()})
        client = DiscoveryClient(LocalTransport(lambda: self.discovery, "discovery"))
        self.files = ModelFiles(client, cache, max_mib)
        references = tuple(
            FileReference(name, sha256(data).hexdigest(), len(data)) for name, data in sorted(self.content.items())
        )
        self.spec = ModelSpec("m@1", "acme", "onnx", digest=digest(folder).digest, files=references)

    def with_file(self, path: str) -> ModelSpec:
        """Return the version with another path of its first file."""
        first, *others = self.spec.files
        return ModelSpec("m@1", "acme", "onnx", digest=self.spec.digest, files=(first._replace(path=path), *others))


@pytest.fixture
def registered(tmp_path: Path) -> Registered:
    """A registered version with an empty cache."""
    return Registered(tmp_path / "source", tmp_path / "cache")


async def test_files_are_downloaded_once_and_complete(registered: Registered) -> None:
    first, second = await asyncio.gather(*(registered.files.locate(registered.spec) for _ in range(2)))
    assert first == second
    assert {path.name: path.read_bytes() for path in first.iterdir()} == registered.content
    assert digest(first).digest == registered.spec.digest
    assert len(registered.discovery.requests) == 2
    await registered.files.locate(registered.spec)
    assert len(registered.discovery.requests) == 2


async def test_broken_download_resumes(registered: Registered) -> None:
    registered.discovery.breaks = 2
    folder = await registered.files.locate(registered.spec)
    assert digest(folder).digest == registered.spec.digest
    assert [offset for _, offset in registered.discovery.requests if offset] == [BLOCK, 2 * BLOCK]


async def test_broken_for_good_leaves_nothing(registered: Registered, tmp_path: Path) -> None:
    registered.discovery.breaks = 100
    with pytest.raises(Unavailable):
        await registered.files.locate(registered.spec)
    assert list((tmp_path / "cache" / "blobs").iterdir()) == []


async def test_other_content_is_refused(registered: Registered, tmp_path: Path) -> None:
    registered.discovery.wrong = True
    with pytest.raises(ModelLoadFailed, match="differs from its digest"):
        await registered.files.locate(registered.spec)
    assert list((tmp_path / "cache" / "blobs").iterdir()) == []


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "", "a\x00b"])
async def test_path_outside_of_the_folder_is_refused(registered: Registered, path: str) -> None:
    with pytest.raises(ModelLoadFailed, match="inside of its folder"):
        await registered.files.locate(registered.with_file(path))
    assert registered.discovery.requests == []


async def test_files_above_the_cache_are_refused(tmp_path: Path) -> None:
    registered = Registered(tmp_path / "source", tmp_path / "cache", max_mib=0)
    with pytest.raises(ModelLoadFailed, match="the cache has 0 MiB"):
        await registered.files.locate(registered.spec)


async def test_damaged_cache_is_refused_by_the_process(registered: Registered) -> None:
    """The process that loads a model hashes its files again."""
    from drw.models.serving.adapters.onnx import OnnxLoader

    folder = await registered.files.locate(registered.spec)
    blob = folder / "model.onnx"
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    loader = OnnxLoader(OnnxLoader.Settings(max_output_bytes=1 << 20))
    with pytest.raises(ModelLoadFailed):
        await loader.load(registered.spec, folder, 256)


async def test_two_gguf_models_run_under_one_budget(start: Callable[..., Any], weights: Path, tmp_path: Path) -> None:
    models = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").hardlink_to(weights)
        models[name] = {"engine": "llama_cpp", "folder": str(tmp_path / name), "memory_mib": 800, "max_concurrent": 1}
        models[name] |= {"context_length": 512}
    scale = predictive(onnx_models.scale(tmp_path / "s", 2.0), memory_mib=256)
    discovery = with_models(**models, scale=scale)
    async with start(discovery=discovery, runtime={"memory_mib": 1900, "preload": False}) as cluster:

        async def chat(model: str) -> str:
            response = await cluster.client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4, temperature=0, seed=1
            )
            return response.choices[0].message.content or ""

        first, second = await asyncio.gather(chat("one"), chat("two"))
        assert first and first == second
        tokens = (await cluster.http.post("/v1/tokenize", json={"model": "one", "prompt": "Say hello."})).json()[
            "tokens"
        ]
        text = await cluster.http.post("/v1/detokenize", json={"model": "two", "tokens": tokens})
        assert text.json() == {"prompt": "Say hello."}
        request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
        assert (await infer(cluster, "scale", request)).status_code == 200


async def test_reranker_scores_documents(start: Callable[..., Any], tmp_path: Path) -> None:
    reranker = predictive(onnx_models.cross_encoder(tmp_path / "r")) | {"kind": "reranker"}
    async with start(discovery=with_models(rank=reranker)) as cluster:
        documents = ["no no", "yes yes", "no yes", "", "yes " * 100]
        request = {
            "inputs": [
                {"name": "query", "datatype": "BYTES", "shape": [1], "data": ["query"]},
                {"name": "documents", "datatype": "BYTES", "shape": [5], "data": documents},
            ]
        }
        response = await infer(cluster, "rank", request)
        scores = response.json()["outputs"][0]["data"]
        assert scores[0] == scores[3] == pytest.approx(0.5)
        assert scores[4] > scores[1] > scores[2] > scores[0]


async def test_reranker_without_a_tokenizer_is_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    folder = onnx_models.cross_encoder(tmp_path / "r")
    (folder / "tokenizer.json").unlink()
    async with start(discovery=with_models(rank=predictive(folder) | {"kind": "reranker"})) as cluster:
        response = await cluster.http.get("/v2/models/rank")
        assert response.status_code == 503 and "tokenizer.json" in response.json()["error"]


async def test_reranker_port(start: Callable[..., Any], tmp_path: Path) -> None:
    from drw.models.serving.adapters.onnx import OnnxLoader

    loader = OnnxLoader(OnnxLoader.Settings(max_output_bytes=1 << 20))
    spec = ModelSpec("rank", "", "onnx", "reranker", folder=str(onnx_models.cross_encoder(tmp_path / "r")))

    async def locate(each: ModelSpec) -> Path:
        return Path(each.folder)

    pool = ModelPool(lambda engine: loader, locate, RuntimeSettings())
    reranker = PooledReranker(pool, spec)
    try:
        scores = await reranker.score("query", ["no", "yes", "no \ud800 yes"])
        assert scores[1] == scores[2] > scores[0]
        assert await reranker.score("query", []) == []
        with pytest.raises(InvalidRequest, match="documents"):
            await reranker.score("query", [""] * 10_001)
    finally:
        await pool.close()
