"""Logprobs of the bundled engine, including tokens that are parts of a character."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.models.serving.adapters.llama_cpp import _is_greedy
from drw.models.serving.engines.logprobs import Logprobs
from models.cluster import ModelsCluster, StartCluster
from support.json_types import JsonObject

EMOJI = [{"role": "user", "content": "Repeat: 🎉🎉🎉🎉🎉"}]
FORCED = "🎉é日"
CONST = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"const": FORCED}}}


@pytest.fixture
async def cluster(start: StartCluster, engine: Path) -> AsyncIterator[ModelsCluster]:
    async with start(small=engine) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("more", "text"),
    [({"max_tokens": 9, "temperature": 0}, "🎉🎉🎉"), ({"max_tokens": 30, "response_format": CONST}, f'"{FORCED}"')],
)
async def test_each_token_of_a_character_has_a_logprob_entry(
    cluster: ModelsCluster, more: JsonObject, text: str
) -> None:
    request = {"model": "small", "messages": EMOJI, "logprobs": True, "top_logprobs": 2, **more}
    complete = await cluster.client.chat.completions.create(**request)
    (choice,) = complete.choices
    assert choice.message.content == text
    entries = choice.logprobs.content
    assert len(entries) == complete.usage.completion_tokens
    assert b"".join(bytes(entry.bytes) for entry in entries) == text.encode()
    assert all(-100 < entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)
    stream = await cluster.client.chat.completions.create(**request, stream=True)
    parts = [part async for chunk in stream for part in chunk.choices]
    assert parts[0].delta.role == "assistant" and [p.delta.role for p in parts[1:]] == [None] * (len(parts) - 1)
    streamed = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
    assert [(entry.token, entry.bytes) for entry in streamed] == [(entry.token, entry.bytes) for entry in entries]
    assert "".join(part.delta.content or "" for part in parts) == text


def entry(id_: int, data: list[int], *likely: JsonObject) -> JsonObject:
    candidates = [{"id": id_, "token": "", "bytes": data, "logprob": -1.0}] if not likely else list(likely)
    return {"id": id_, "token": "", "bytes": data, "logprob": -1.0, "top_logprobs": candidates}


async def test_a_greedy_answer_truncated_inside_a_character_uses_the_most_likely_token() -> None:
    logprobs = Logprobs(greedy=True)
    logprobs.add({"logprobs": None}, 1)

    async def probe(ids: list[int], count: int) -> list[JsonObject]:
        return [{"id": 5, "token": "", "bytes": [240, 159], "logprob": -0.25}]

    (cut,) = await logprobs.remaining_entries(probe)
    assert (cut["bytes"], cut["logprob"]) == ([240, 159], -0.25)


async def fail_on_probe(ids: list[int], count: int) -> None:
    raise AssertionError("probed although no token is missing")


def test_sampling_with_penalties_is_not_greedy() -> None:
    assert _is_greedy({"temperature": 0})
    assert not _is_greedy({"temperature": 0, "repeat_penalty": 1.1})


async def test_events_have_entries_until_the_first_missing_token() -> None:
    logprobs = Logprobs(greedy=False)
    choice = {"logprobs": {"content": [entry(1, [65])]}}
    logprobs.add(choice, 1)
    assert choice["logprobs"]["content"][0]["token"] == "A" and not logprobs.missing
    end = {"logprobs": None}
    logprobs.add(end, 3)  # two more that are no whole character when the answer is cut
    assert logprobs.missing and [e["logprob"] for e in await logprobs.remaining_entries(fail_on_probe)] == [
        -9999.0,
        -9999.0,
    ]


@pytest.mark.parametrize("has_own_candidate", [True, False])
async def test_missing_tokens_are_the_most_likely_ones_that_match_the_bytes(has_own_candidate: bool) -> None:
    logprobs = Logprobs(greedy=False)
    other = {"id": 8, "token": "", "bytes": [9], "logprob": -9.0}
    last = {"id": 7, "token": "", "bytes": [137], "logprob": -1.0}
    logprobs.add({"logprobs": {"content": [entry(7, [240, 159, 142, 137], last if has_own_candidate else other)]}}, 3)
    requests = []

    async def probe(ids: list[int], count: int) -> list[JsonObject]:
        requests.append((list(ids), count))
        likely = {0: [[240, 159, 142], [65], [240, 159], [240]], 1: [[142, 137], [142]]}[len(ids)]
        return [{"id": n, "token": "", "bytes": b, "logprob": -n} for n, b in enumerate(likely)]

    entries = await logprobs.remaining_entries(probe)
    assert [e["bytes"] for e in entries] == [[240, 159], [142], [137]]
    assert requests == [([], 200), ([2], 200)]
