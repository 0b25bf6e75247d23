"""Conversion of chunks to `UsageUpdate`."""

from __future__ import annotations

import pytest

from drw.billing.usage import UsageUpdate
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.openai.usage import usage_update
from support.json_types import JsonObject


def word(index: int = 0, **more: str) -> JsonObject:
    return {"index": index, "delta": {"content": "x"}, **more}


@pytest.mark.parametrize(
    ("chunk", "update"),
    [
        ({"choices": [word()]}, UsageUpdate(deltas=1, continues=True)),
        ({"choices": [word(0), word(1)]}, UsageUpdate(deltas=2, continues=True)),
        ({"choices": [word(finish_reason="stop")]}, UsageUpdate(deltas=1)),
        ({"choices": [{"delta": {"role": "assistant"}}]}, UsageUpdate(continues=True)),
        ({"choices": [{"text": "x"}]}, UsageUpdate(deltas=1, continues=True)),
        ({"choices": []}, UsageUpdate()),
        (
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            UsageUpdate(input_tokens=3, output_tokens=4, final=True),
        ),
        ({"choices": [], "usage": {"prompt_tokens": 3}}, UsageUpdate(input_tokens=3, output_tokens=0, final=True)),
        (
            {"choices": [word(1)], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            UsageUpdate(deltas=1, continues=True, input_tokens=3, output_tokens=4, outputs=(1,)),
        ),
        (
            {"choices": [word()], "timings": {"prompt_n": 2, "cache_n": 7, "predicted_n": 5}},
            UsageUpdate(deltas=1, continues=True, input_tokens=9, output_tokens=5, outputs=(0,)),
        ),
        ({"choices": [], "timings": {"predicted_n": 5}}, UsageUpdate(input_tokens=0, output_tokens=5)),
        (
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 3,
                    "completion_tokens": 4,
                    "prompt_tokens_details": {"cached_tokens": 2},
                    "completion_tokens_details": {"reasoning_tokens": 1},
                },
            },
            UsageUpdate(input_tokens=3, output_tokens=4, final=True, cached_tokens=2, reasoning_tokens=1),
        ),
        (
            {"choices": [], "usage": {"completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": "4"}}},
            UsageUpdate(input_tokens=0, output_tokens=4, final=True),
        ),
    ],
)
def test_a_chunk_is_converted_to_a_usage_update(chunk: JsonObject, update: UsageUpdate) -> None:
    assert usage_update(chunk) == update


@pytest.mark.parametrize("count", [-1, 1 << 31, 1.0, "7", True])
@pytest.mark.parametrize("place", ["usage", "timings"])
def test_an_invalid_token_count_ends_the_answer(place: str, count: float | str) -> None:
    name = {"usage": "completion_tokens", "timings": "predicted_n"}[place]
    with pytest.raises(ResponseTruncated, match=name):
        usage_update({"choices": [], place: {name: count}})
