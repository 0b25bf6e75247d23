"""Swap of a registered GGUF version under load, with the real engine: no failed request, no mixed stream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from models.cluster import KEY, ModelsCluster
from models.inference import onnx_models
from models.inference.running import infer, predictive, rows, with_models
from support.gateway.model_versions import CHECKER, MAKER
from support.json_types import JsonObject

SCOPES = {"x-drw-scopes": "models:read models:write models:approve models:invoke"}
ALIAS = "assistant"
MESSAGES: list[Any] = [{"role": "user", "content": "Count: one, two,"}]
MEMORY = {"memory_mib": 4400}
"""Each of the two versions has 2,110 MiB: its files, its cache and the engine. Nothing else fits beside them."""


async def made(cluster: ModelsCluster, path: str, body: JsonObject, key: str = MAKER, verb: str = "POST") -> JsonObject:
    """Send a request of the registry, and return the answer."""
    answer = await cluster.http.request(verb, f"/api/v1/{path}", json=body, headers={**KEY, **SCOPES, "x-drw-key": key})
    assert answer.status_code == 200, answer.text
    result: JsonObject = answer.json()
    return result


async def uploaded(cluster: ModelsCluster, content: bytes) -> str:
    digest = sha256(content).hexdigest()
    headers = {**KEY, **SCOPES, "x-drw-key": MAKER}
    answer = await cluster.http.put(f"/api/v1/model-files/{digest}", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return digest


async def approved(cluster: ModelsCluster, weights: str, note: str) -> str:
    """Register a version of the same weights, which differs by a note, validate and approve it; return its id."""
    files = [
        {"path": "model.gguf", "sha256": weights},
        {"path": "NOTE.md", "sha256": await uploaded(cluster, note.encode())},
    ]
    version = await made(cluster, "model-versions", {"model": "count", "kind": "CHAT", "owner": "desk", "files": files})
    path = f"model-versions/{version['id']}"
    expires_at = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    record = {"scope": "NOT_IN_SCOPE", "scope_reason": "a test", "owner": "desk", "expires_at": expires_at}
    await made(cluster, f"{path}/validation", {"record": record}, CHECKER, "PUT")
    await made(cluster, f"{path}:approve", {}, CHECKER)
    return str(version["id"])


async def promote(cluster: ModelsCluster, version: str) -> None:
    promotion = await made(cluster, "promotions", {"alias": ALIAS, "version": version, "reason": "better"})
    await made(cluster, f"promotions/{promotion['id']}:approve", {}, CHECKER)


def engines() -> set[int]:
    """Return the engine processes that this process has started."""
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and b"drw.models.engine\0" in command and b"--memory" in command:
            pids.add(int(folder.name))
    return pids


async def test_a_promoted_version_takes_over_under_load(
    start: Callable[..., Any], weights: Path, tmp_path: Path
) -> None:
    before = engines()
    scale = predictive(onnx_models.scale(tmp_path / "scale", 2.0), memory_mib=256)
    async with start(
        discovery=with_models(scale=scale),
        runtime={**MEMORY, "preload": False},
        remember_models_seconds=0.1,
        more=("authentication", "rate_limiting"),
    ) as cluster:
        gguf = await uploaded(cluster, weights.read_bytes())
        old, new = [await approved(cluster, gguf, note) for note in ("one", "two")]
        await promote(cluster, old)
        request: dict[str, Any] = {"model": ALIAS, "messages": MESSAGES, "max_tokens": 8, "temperature": 0, "seed": 1}
        complete = await cluster.client.chat.completions.create(**request)
        expected = complete.choices[0].message.content
        assert complete.model == old and expected
        (old_engine,) = engines() - before
        answered: list[str] = []
        finished = asyncio.Event()

        async def chats() -> None:
            while not finished.is_set():
                answer = await cluster.client.chat.completions.create(**request)
                assert answer.choices[0].message.content == expected
                answered.append(answer.model)

        async def streams() -> None:
            while not finished.is_set():
                chunks = [chunk async for chunk in await cluster.client.chat.completions.create(**request, stream=True)]
                (model,) = {chunk.model for chunk in chunks}
                assert len({chunk.id for chunk in chunks}) == 1
                choices = [choice for chunk in chunks for choice in chunk.choices]
                assert "".join(choice.delta.content or "" for choice in choices) == expected
                assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["length"]
                answered.append(model)

        async with asyncio.TaskGroup() as clients:
            for client in (chats, streams, chats, streams):
                clients.create_task(client())
            await cluster.until(lambda: len(answered) > 8, "traffic on the old version")
            await promote(cluster, new)
            await cluster.until(lambda: answered.count(new) > 8, "traffic on the new version")
            finished.set()
        assert set(answered) == {old, new}
        assert (await cluster.client.chat.completions.create(**request)).model == new

        # The old version is loaded until its memory is needed; then it is the one that goes.
        assert len(engines() - before) == 2
        assert (await infer(cluster, "scale", rows([1, 1]))).status_code == 200
        (engine,) = engines() - before
        assert engine != old_engine
        assert (await cluster.client.chat.completions.create(**request)).model == new
        assert engines() - before == {engine}
    assert engines() == before
