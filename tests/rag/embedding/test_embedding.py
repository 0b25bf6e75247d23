"""The embedding service: validation, fair queueing and batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy import ndarray

from drw.api.rag.v1.embedding_pb2 import EmbedRequest, Tokens
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.kernel.errors import DrwError, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.rag.embedding.adapters.hashing import Hashing
from drw.rag.embedding.encoder_queue import MAX_SHORT_TEXTS, EncoderQueue
from drw.rag.embedding.lengths import LengthPolicy
from drw.rag.embedding.ports import EncodingBatch, Text, TextEncoder
from support.hosting import hosted

TEXTS = ["the desk hedges gamma", "the desk hedges its gamma daily", "coffee is served at nine"]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_texts_that_share_words_have_similar_vectors(hashing: Profile, how: str) -> None:
    async with hosted(hashing, ["embedding"], how) as host:
        answer = await host.client(EmbeddingClient).embed(EmbedRequest(texts=TEXTS))
    vectors = np.array([v.values for v in answer.vectors])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > abs(vectors[0] @ vectors[2])
    assert (answer.model, answer.tokens) == ("hashing", 4 + 6 + 5)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (EmbedRequest(), InvalidRequest, "must have either texts or tokens"),
        (EmbedRequest(texts=["a"], truncate_prompt_tokens=-2), InvalidRequest, "truncate_prompt_tokens is -2"),
        (EmbedRequest(texts=["a"], tokens=[Tokens(ids=[1])]), InvalidRequest, "must have either texts or tokens"),
        (EmbedRequest(texts=["a"], model="gpt"), NotFound, "there is 'hashing'"),
    ],
)
async def test_invalid_requests_are_rejected(
    hashing: Profile, request_: EmbedRequest, error: type[DrwError], words: str
) -> None:
    async with hosted(hashing, ["embedding"]) as host:
        with pytest.raises(error, match=words):
            await host.client(EmbeddingClient).embed(request_)


class DoubleEncoder(TextEncoder):
    """Records the sizes of its batches in order, and fails for one text."""

    model, dimensions = "double", 2

    def __init__(self) -> None:
        self.order: list[int] = []

    def tokenize(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        return Hashing().tokenize(texts, lengths)

    def encode(self, batch: EncodingBatch) -> ndarray:
        if batch.ids[0] == BROKEN:
            raise RuntimeError("broken")
        self.order.append(len(batch.ids))
        return np.ones((len(batch.ids), 2), np.float32)


BROKEN = Hashing().tokenize(["broken"], LengthPolicy())[0].ids[0]


async def test_short_requests_take_precedence_over_long_ones() -> None:
    queue = EncoderQueue(encoder := DoubleEncoder(), max_texts=1000)
    long = await queue.tokenize(["a"] * 200, LengthPolicy())
    short = await queue.tokenize(["b"] * MAX_SHORT_TEXTS, LengthPolicy())
    waiting = [asyncio.create_task(queue.encode(batches)) for batches in (long, short)]
    await asyncio.sleep(0)
    worker = asyncio.create_task(queue.work())
    await asyncio.gather(*waiting)
    worker.cancel()
    assert encoder.order == [MAX_SHORT_TEXTS, 64, 64, 64, 8]


async def test_orgs_get_fair_shares_of_tokens_regardless_of_arrival_order() -> None:
    queue = EncoderQueue(encoder := DoubleEncoder(), max_texts=10_000)
    tasks = []
    for org, text, count in (("a", "a", 640), ("b", "b", 63)):
        with acting_for(Principal(org, "desk", "key")):
            batches = await queue.tokenize([text] * count, LengthPolicy())
            tasks.append(asyncio.create_task(queue.encode(batches)))
        await asyncio.sleep(0)
    worker = asyncio.create_task(queue.work())
    await tasks[1]
    assert encoder.order[:2] == [64, 63]  # one of the first org's ten, then the second org's
    await tasks[0]
    worker.cancel()


async def test_one_org_can_occupy_half_of_the_queue() -> None:
    queue = EncoderQueue(DoubleEncoder(), max_texts=100)
    with acting_for(Principal("a", "desk", "key")):
        waiting = asyncio.create_task(queue.encode(await queue.tokenize(["a"] * 50, LengthPolicy())))
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="has 50 texts"):
            await queue.tokenize(["a"], LengthPolicy())
    with acting_for(Principal("b", "desk", "key")):
        assert await queue.tokenize(["b"] * 50, LengthPolicy())
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_texts_count_as_queued_while_they_are_tokenized() -> None:
    queue = EncoderQueue(DoubleEncoder(), max_texts=100)
    reads = (queue.tokenize(["a"] * 50, LengthPolicy()) for _ in range(5))
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert sum(isinstance(each, RateLimited) for each in found) == 4
    assert await queue.tokenize(["a"] * 50, LengthPolicy())


async def test_the_queue_is_bounded_and_a_cancelled_request_is_not_encoded() -> None:
    queue = EncoderQueue(encoder := DoubleEncoder(), max_texts=10)
    cancelled = asyncio.create_task(queue.encode(await queue.tokenize(["a"] * 9, LengthPolicy())))
    await asyncio.sleep(0)
    with pytest.raises(RateLimited, match="has 9 texts"):
        await queue.tokenize(["b"] * 2, LengthPolicy())
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    worker = asyncio.create_task(queue.work())
    await queue.encode(await queue.tokenize(["b"] * 2, LengthPolicy()))
    worker.cancel()
    assert encoder.order == [2]


async def test_a_batch_that_fails_fails_only_its_request() -> None:
    queue = EncoderQueue(DoubleEncoder(), max_texts=10)
    worker = asyncio.create_task(queue.work())
    with pytest.raises(RuntimeError, match="broken"):
        await queue.encode(await queue.tokenize(["broken"], LengthPolicy()))
    (vectors,) = await queue.encode(await queue.tokenize(["whole"], LengthPolicy()))
    worker.cancel()
    assert vectors.shape == (1, 2)
