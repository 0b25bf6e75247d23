"""A stream that breaks off is gone on with by the real engine, word for word as if it had given all of it."""

from __future__ import annotations

import pytest

PROMPT = [{"role": "user", "content": "cut"}]
GREEDY = {"temperature": 0, "max_tokens": 32, "seed": 1}


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_the_real_engine_goes_on_where_another_broke_off(start, engine, endpoint):
    async with start(small=engine, double={"fallbacks": ["small"]}) as web:

        async def said(model: str) -> str:
            if endpoint == "chat":
                stream = await web.client.chat.completions.create(model=model, messages=PROMPT, stream=True, **GREEDY)
                return "".join([c.delta.content or "" async for chunk in stream for c in chunk.choices])
            stream = await web.client.completions.create(model=model, prompt="cut", stream=True, **GREEDY)
            return "".join([c.text or "" async for chunk in stream for c in chunk.choices])

        whole = await said("small")
        words = whole.split(" ")
        assert len(words) > 8
        web.double.words = (" ".join(words[:5]), *(f" {word}" for word in words[5:]))
        assert await said("double") == whole
        attempts = web.records()[-1]["details"]["attempts"]
        assert [(a["model"], a["outcome"]) for a in attempts] == [("double", "cut"), ("small", "ok")]
