"""Complete answers contain all of a stream: separate tool calls, logprobs, extension fields."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from drw.models.serving.engines.openai_client import _is_well_formed
from drw.models.serving.openai.responses import Answer
from support.json_types import Json, JsonObject


def chunk(delta: JsonObject, **choice: Json) -> JsonObject:
    head = {"id": "u", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    made = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]}
    assert ChatCompletionChunk.model_validate(made)
    assert _is_well_formed(made)
    return made


def part(index: int | None, id_: str | None, name: str = "", arguments: str = "", **more: Json) -> JsonObject:
    made = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in (made | more).items() if value is not None}


PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'
CALLS = [
    ("each whole, all with the index 0", [[part(0, "a", "f", PARIS)], [part(0, "b", "g", ROME)]]),
    ("both in one chunk", [[part(0, "a", "f", PARIS), part(0, "b", "g", ROME)]]),
    ("in pieces, with the index 0", [
        [part(0, "a", "f", PARIS[:5])], [part(0, None, "", PARIS[5:])], [part(0, "b", "g")], [part(0, None, "", ROME)],
    ]),
    ("as OpenAI has it, in turns", [
        [part(0, "a", "f")], [part(1, "b", "g")], [part(0, None, "", PARIS)], [part(1, None, "", ROME)],
    ]),
    ("another id in each piece", [
        [part(0, "a", "f", PARIS[:5])], [part(0, "x", None or "", PARIS[5:])], [part(1, "b", "g", ROME)],
    ]),
    ("the name in each piece", [
        [part(0, "a", "f", PARIS[:5])], [part(0, "a", "f", PARIS[5:])], [part(1, "b", "g", ROME)],
    ]),
    ("the second index left out", [[part(0, "a", "f", PARIS)], [part(None, "b", "g", ROME)]]),
    ("from 1", [[part(1, "a", "f", PARIS)], [part(2, "b", "g", ROME)]]),
    ("all with the index 1", [[part(1, "a", "f", PARIS)], [part(1, "b", "g", ROME)]]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "deltas"), CALLS, ids=[name for name, _ in CALLS])
def test_parallel_tool_calls_are_separate_complete_and_streamed(name: str, deltas: list[list[JsonObject]]) -> None:
    answer = Answer("chat/completions", "m", 1)
    merged: dict[int, list[str]] = {}
    for calls in deltas:
        event = {"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}
        answer.add(event)
        sent = answer.event(event, with_usage=False)
        assert sent is not None
        for call in orjson.loads(sent[6:])["choices"][0]["delta"]["tool_calls"]:
            seen = merged.setdefault(call["index"], ["", ""])  # as the official client does
            seen[0] = seen[0] or call.get("function", {}).get("name", "")
            seen[1] += call.get("function", {}).get("arguments", "")
    answer.add(chunk({}, finish_reason="tool_calls"))
    (choice,) = ChatCompletion.model_validate_json(answer.body()).choices
    complete: list[Any] = choice.message.tool_calls or []
    assert [(c.id, c.function.name, c.function.arguments) for c in complete] == [("a", "f", PARIS), ("b", "g", ROME)]
    assert list(merged.values()) == [["f", PARIS], ["g", ROME]]


def test_tool_calls_without_ids_receive_ids() -> None:
    answer = Answer("chat/completions", "m", 1)
    for arguments in (PARIS, ROME):
        answer.add(chunk({"tool_calls": [part(0, "", "f", arguments)]}))
    (message,) = answer.messages()
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [PARIS, ROME]
    assert len({call["id"] for call in message["tool_calls"]} - {""}) == 2


def test_a_late_tool_call_with_a_lower_index_is_kept_separate() -> None:
    answer = Answer("chat/completions", "m", 1)
    for call in (part(1, "b", "g", ROME), part(0, "a", "f", PARIS)):
        answer.add(chunk({"tool_calls": [call]}))
    (message,) = answer.messages()
    assert [call["id"] for call in message["tool_calls"]] == ["a", "b"]


def test_calls_of_different_functions_with_one_index_are_separate() -> None:
    answer = Answer("chat/completions", "m", 1)
    for name in ("f", "g"):
        answer.add(chunk({"tool_calls": [part(0, "", name)]}))
    (message,) = answer.messages()
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f", "g"]


def test_extension_fields_of_an_upstream_are_in_the_complete_answer() -> None:
    answer = Answer("chat/completions", "m", 1)
    signature = {"google": {"thought_signature": "abc"}}
    answer.add(chunk({"content": "hi", "reasoning_details": [{"text": "a"}]}, content_filter_results={"hate": 0}))
    answer.add(chunk({"tool_calls": [part(0, "a", "f", PARIS, extra_content=signature)], "extra_content": {"x": 1}}))
    answer.add(chunk({"reasoning_details": [{"text": "b"}], "extra_content": {"y": 2}, "unset": None}))
    answer.add(chunk({}, finish_reason="stop", stop_reason=7, content_filter_results={"self_harm": 1}, message={}))
    choice = orjson.loads(answer.body())["choices"][0]
    assert choice["stop_reason"] == 7 and choice["content_filter_results"] == {"hate": 0, "self_harm": 1}
    message = choice["message"]
    assert message["tool_calls"][0]["extra_content"] == signature
    assert message["reasoning_details"] == [{"text": "a"}, {"text": "b"}]
    assert message["extra_content"] == {"x": 1, "y": 2}
    assert "unset" not in message


def test_logprobs_of_completions_and_refusals_are_in_the_complete_answer() -> None:
    answer = Answer("completions", "m", 1)
    for token, offset in (("Al", 0), ("pha", 2)):
        logprobs = {
            "tokens": [token],
            "token_logprobs": [-0.5],
            "top_logprobs": [{token: -0.5}],
            "text_offset": [offset],
        }
        answer.add({"choices": [{"index": 0, "text": token, "logprobs": logprobs, "finish_reason": "stop"}]})
    (choice,) = Completion.model_validate_json(answer.body()).choices
    assert choice.logprobs is not None
    assert (choice.logprobs.tokens, choice.logprobs.text_offset) == (["Al", "pha"], [0, 2])
    assert choice.logprobs.top_logprobs == [{"Al": -0.5}, {"pha": -0.5}]
    chat = Answer("chat/completions", "m", 1)
    refusal: JsonObject = {"token": "no", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    chat.add(chunk({"refusal": "no"}, logprobs={"content": None, "refusal": [refusal]}, finish_reason="stop"))
    (parsed,) = ChatCompletion.model_validate_json(chat.body()).choices
    assert parsed.logprobs is not None and parsed.logprobs.refusal is not None
    assert parsed.logprobs.content is None and parsed.logprobs.refusal[0].token == "no"


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"tool_calls": ["x"]}},
        {"delta": {"tool_calls": [{"index": "0"}]}},
        {"delta": {"tool_calls": [{"function": "f"}]}},
        {"delta": {"tool_calls": [{"function": {"arguments": {}}}]}},
        {"delta": {}, "logprobs": [1]},
    ],
)
def test_a_malformed_tool_call_is_a_malformed_response(choice: JsonObject) -> None:
    assert not _is_well_formed({"choices": [choice]})
