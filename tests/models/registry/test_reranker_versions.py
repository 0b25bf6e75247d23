"""`POST /v1/rerank` with a registered version of a cross-encoder, whose files come from discovery."""

from __future__ import annotations

from pathlib import Path

import psycopg

from drw.api.models.v1.discovery_pb2 import Model, ModelFile
from drw.api.models.v1.versions_pb2 import ModelPrice
from drw.kernel.runtime.settings import Profile
from models.inference.onnx_models import cross_encoder
from models.registry.harness import SERVICES, RegistryWorld, registry_world
from support.json_types import Json, JsonObject

WITH_SERVING = [*SERVICES, "load_balancer", "request_router", "serving"]


async def rerank(world: RegistryWorld, model: str, *, stranger: bool = False) -> Json:
    body = {"model": model, "query": "query", "documents": ["no no", "yes yes", "no yes"], "return_documents": False}
    async with world.http(world.stranger if stranger else world.developer) as http:
        return await http.post("/v1/rerank", json=body)


async def test_a_version_reranks_after_its_validation_and_behind_its_alias(profile: Profile, tmp_path: Path) -> None:
    paths = sorted(path for path in cross_encoder(tmp_path / "r").iterdir() if path.is_file())
    contents = [path.read_bytes() for path in paths]
    async with registry_world(profile, services=WITH_SERVING) as world:
        hashes = await world.uploaded(*contents)
        files = [ModelFile(path=path.name, sha256=sha256) for path, sha256 in zip(paths, hashes, strict=True)]
        described: JsonObject = {"kind": Model.RERANKER, "endpoint": None, "files": files}
        described["price"] = ModelPrice(prompt_usd_per_million="1000", completion_usd_per_million="0")
        version = await world.registered("rank", **described)
        refused = await rerank(world, version.id)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_validated"), refused.text
        await world.approved("rank", **described)
        await world.promoted("best", version.id)
        for name in (version.id, "best"):
            answer = await rerank(world, name)
            assert [one["index"] for one in answer.json()["results"]] == [1, 2, 0], answer.text
            assert (await rerank(world, name, stranger=True)).status_code == 404
        details = world.audit("model.rerank")[-2]["details"]
        assert (details["model"], details["version"]) == (version.id, version.digest)
        with psycopg.connect(world.profile.postgres) as connection:
            query = "select cost, prompt_tokens from metering.ledger where model = %s"
            charges = connection.execute(query, (version.id,)).fetchall()
        assert [cost for cost, _ in charges] == [details["prompt_tokens"] * 1_000_000] * 2
