"""Validation of messages: types of the official client, and messages that SDKs send back."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import orjson
import pytest
from openai.types import EmbeddingCreateParams
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartRefusalParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionMessage,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
    ParsedChatCompletionMessage,
)
from pydantic import ValidationError

from drw.kernel.errors import InvalidRequest
from drw.models.serving.openai.messages import StrictObject, without_reasoning
from drw.models.serving.openai.requests import ChatCompletion, Completion, Embedding, parse_request
from support.json_types import Json, JsonObject

CALL: JsonObject = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS: dict[type, JsonObject] = {
    ChatCompletionContentPartTextParam: {"type": "text", "text": "hi"},
    ChatCompletionContentPartImageParam: {"type": "image_url", "image_url": {"url": "https://h/x.png"}},
    ChatCompletionContentPartRefusalParam: {"type": "refusal", "refusal": "no"},
}
MESSAGES: dict[type, JsonObject] = {
    ChatCompletionDeveloperMessageParam: {"role": "developer", "content": "hi"},
    ChatCompletionSystemMessageParam: {"role": "system", "content": "hi"},
    ChatCompletionUserMessageParam: {"role": "user", "content": "hi"},
    ChatCompletionAssistantMessageParam: {"role": "assistant", "content": "hi"},
    ChatCompletionToolMessageParam: {"role": "tool", "content": "hi", "tool_call_id": "call_1"},
}


USER = {"role": "user", "content": "hi"}


def forwarded(message: JsonObject) -> JsonObject:
    """Return a message as the engine receives it."""
    return parse_request(ChatCompletion, orjson.dumps({"model": "m", "messages": [message]})).body()["messages"][0]


def rejection(message: JsonObject, **more: Json) -> tuple[str, str]:
    """Return the message and parameter of the error."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request(ChatCompletion, orjson.dumps({"model": "m", "messages": [message], **more}))
    return caught.value.message, str(caught.value.metadata["param"])


def null(kind: type) -> dict[str, None]:
    """Return all fields of a type as null, and an unknown field."""
    return dict.fromkeys(typing.get_type_hints(kind)) | {"of_a_later_release": None}


@pytest.mark.parametrize(("kind", "least"), list(MESSAGES.items()), ids=lambda x: getattr(x, "__name__", ""))
def test_null_fields_of_a_message_are_ignored(kind: type, least: dict[str, str]) -> None:
    assert forwarded(null(kind) | least) == least


@pytest.mark.parametrize(("kind", "least"), list(PARTS.items()), ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer", "tool"])
def test_null_fields_of_a_content_part_are_ignored(kind: type, least: JsonObject, role: str) -> None:
    message = {"role": role, "content": [null(kind) | least]}
    assert forwarded(message)["content"] == [least]


def test_every_message_and_part_type_of_the_client_is_covered() -> None:
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

    messages = set(typing.get_args(ChatCompletionMessageParam)) - MESSAGES.keys()
    assert {kind.__name__ for kind in messages} == {"ChatCompletionFunctionMessageParam"}
    parts = set(typing.get_args(ChatCompletionContentPartParam)) - PARTS.keys()
    assert {kind.__name__ for kind in parts} == {"ChatCompletionContentPartInputAudioParam", "File"}


def answers() -> Iterator[tuple[str, JsonObject]]:
    """Yield assistant messages as SDKs send them back."""
    assistant_message = {"role": "assistant", "content": "hi"}
    calls = {"role": "assistant", "tool_calls": [CALL]}
    yield "openai", ChatCompletionMessage.model_validate(assistant_message).model_dump()
    yield "openai, calls", ChatCompletionMessage.model_validate(calls).model_dump()
    yield (
        "openai, parsed",
        ParsedChatCompletionMessage[JsonObject].model_validate(assistant_message | {"parsed": {"a": 1}}).model_dump(),
    )
    yield "parsed arguments", {**calls, "tool_calls": [CALL | {"function": CALL["function"] | {"parsed_arguments": 1}}]}
    yield "annotations", {**assistant_message, "annotations": [{"type": "url_citation", "url_citation": {}}]}
    yield "index of a stream", {**calls, "content": None, "tool_calls": [CALL | {"index": 0}]}
    yield (
        "litellm",
        {**assistant_message, "provider_specific_fields": {"x": 1}, "thinking_blocks": [{}], "cache_control": {"t": 1}},
    )
    yield (
        "names that models make up",
        {**calls, "tool_calls": [CALL | {"function": {"name": "a.b:0", "arguments": ""}}]},
    )


@pytest.mark.parametrize(("name", "message"), list(answers()), ids=lambda x: x if isinstance(x, str) else "")
def test_assistant_messages_from_sdks_are_accepted(name: str, message: JsonObject) -> None:
    result = forwarded(message)
    assert result.keys() <= {"role", "content", "tool_calls"}
    for call in result.get("tool_calls", ()):
        assert call.keys() == {"id", "type", "function"} and call["function"].keys() == {"name", "arguments"}


@pytest.mark.parametrize("field", ["cache_control", "prompt_cache_breakpoint"])
@pytest.mark.parametrize("part", [p for p in PARTS.values() if p["type"] != "refusal"], ids=lambda p: p["type"])
def test_cache_hints_are_accepted_and_not_forwarded(field: str, part: JsonObject) -> None:
    assert forwarded({"role": "user", "content": [part | {field: {"type": "ephemeral"}}]})["content"] == [part]


def test_reasoning_is_sent_only_to_models_that_support_it() -> None:
    reasoning = {"reasoning_content": "a", "reasoning": "b", "reasoning_details": [{"text": "c"}]}
    assistant_message = {"role": "assistant", "content": "hi"}
    assert forwarded(assistant_message | reasoning) == assistant_message | reasoning
    assert without_reasoning({"messages": [assistant_message | reasoning], "n": 1}) == {
        "messages": [assistant_message],
        "n": 1,
    }
    body = {"messages": [assistant_message]}
    assert without_reasoning(body) is body


def test_a_missing_type_of_a_tool_call_is_added() -> None:
    untyped = {name: value for name, value in CALL.items() if name != "type"}
    assert forwarded({"role": "assistant", "tool_calls": [untyped]})["tool_calls"] == [CALL]


@pytest.mark.parametrize("more", [{}, {"max_completion_tokens": 5}, {"max_completion_tokens": None}])
def test_equal_max_tokens_and_max_completion_tokens_are_accepted(more: dict[str, int | None]) -> None:
    raw = orjson.dumps({"model": "m", "messages": [USER], "max_tokens": 5, **more})
    assert parse_request(ChatCompletion, raw).max_answer_tokens()[1] == 5


def many(count: int = 1000) -> Iterator[tuple[str, type[StrictObject], JsonObject]]:
    """Yield requests with many errors."""
    chat, wrong, names = {"model": "m", "messages": [USER]}, [5] * count, {f"x{n}": 5 for n in range(count)}
    of_role = {"role": "assistant"}
    yield "messages", ChatCompletion, chat | {"messages": wrong}
    yield "parts", ChatCompletion, chat | {"messages": [USER | {"content": wrong}]}
    yield "calls", ChatCompletion, chat | {"messages": [of_role | {"tool_calls": wrong}]}
    yield "details", ChatCompletion, chat | {"messages": [of_role | {"content": "x", "reasoning_details": wrong}]}
    yield "unknown fields", ChatCompletion, chat | {"messages": [USER | names]}
    yield "unknown fields of a request", Embedding, {"model": "m", "input": "x"} | names
    yield "tools", ChatCompletion, chat | {"tools": wrong}
    yield "stops", ChatCompletion, chat | {"stop": wrong}
    yield "modalities", ChatCompletion, chat | {"modalities": wrong}
    yield "biases", ChatCompletion, chat | {"logit_bias": names}
    yield "metadata", ChatCompletion, chat | {"metadata": names}


@pytest.mark.parametrize(("name", "kind", "request_body"), list(many()), ids=lambda x: x if isinstance(x, str) else "")
def test_only_the_first_of_many_errors_is_collected(
    name: str, kind: type[StrictObject], request_body: JsonObject
) -> None:
    with pytest.raises((InvalidRequest, ValidationError)) as no:
        kind.model_validate_json(orjson.dumps(request_body))
    assert not isinstance(no.value, ValidationError) or no.value.error_count() == 1


@pytest.mark.parametrize(("kind", "field"), [(Completion, "prompt"), (Embedding, "input")])
def test_the_number_of_prompts_is_checked_before_their_content(kind: type[StrictObject], field: str) -> None:
    with pytest.raises(InvalidRequest, match="has 2049 texts"):
        parse_request(kind, orjson.dumps({"model": "m", field: [[1]] * 2048 + [["x"]]}))


def test_null_fields_of_a_request_are_ignored() -> None:
    later = {"of_a_later_release": None}
    nothing = dict.fromkeys(typing.get_type_hints(EmbeddingCreateParams)) | later
    assert parse_request(Embedding, orjson.dumps(nothing | {"model": "m", "input": "x"})).inputs() == ["x"]
    options = {"stream_options": dict.fromkeys(typing.get_type_hints(ChatCompletionStreamOptionsParam)) | later}
    form = {"response_format": {"type": "text"} | later}
    raw = orjson.dumps({"model": "m", "messages": [USER]} | options | form)
    assert parse_request(ChatCompletion, raw).usage_in_stream is False


def test_thought_signatures_are_sent_back_to_the_upstream() -> None:
    extra = {"google": {"thought_signature": "abc"}}
    assistant_message = {"role": "assistant", "tool_calls": [CALL | {"extra_content": extra}], "extra_content": extra}
    assert forwarded(assistant_message) == assistant_message


TEXT = PARTS[ChatCompletionContentPartTextParam]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({**USER, "bogus": 1}, "messages[0].bogus"),
        ({**USER, "content": 3}, "messages[0].content"),
        ({**USER, "content": []}, "messages[0].content"),
        ({**USER, "content": [TEXT | {"bogus": 1}]}, "messages[0].content[0].bogus"),
        ({**USER, "content": [TEXT, {"type": "text"}]}, "messages[0].content[1].text"),
        ({**USER, "content": [{"text": "hi"}]}, "messages[0].content[0].type"),
        ({**USER, "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0].type"),
        ({**USER, "content": [{"type": "file", "file": {}}]}, "messages[0].content[0].type"),
        ({**USER, "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].image_url.url"),
        ({"role": "assistant", "content": "hi", "audio": {"id": "x"}}, "messages[0].audio"),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, "messages[0].function_call"),
        ({"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [CALL | {"id": 1}]}, "messages[0].tool_calls[0].id"),
        ({"role": "function", "name": "f", "content": "x"}, "messages[0].role"),
    ],
)
def test_invalid_fields_are_rejected_with_their_path(message: JsonObject, param: str) -> None:
    message_text, error_param = rejection(message)
    assert error_param == param
    assert message_text.startswith(param)


@pytest.mark.parametrize(
    ("more", "param", "why"),
    [
        ({"stop": list("abcde")}, "stop", "at most 4 items"),
        ({"stop": ["a", 1]}, "stop[1]", "valid string"),
        ({"stop": 3}, "stop", "a string or a list"),
        ({"tool_choice": {"type": "function", "function": {"name": "a b"}}}, "tool_choice.function.name", "pattern"),
        ({"tool_choice": "always"}, "tool_choice", "'required'"),
        ({"tool_choice": 3}, "tool_choice", "a string or an object"),
        ({"tools": [{"type": "function", "function": {"name": "f", "bogus": 1}}]}, "tools[0].function.bogus", "not"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "'function'"),
        ({"stream_options": {"bogus": 1}}, "stream_options.bogus", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": []}, "tool_choice", "needs tools"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ; give one"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "not the id of a token"),
        ({"logit_bias": {"-5": 1}}, "logit_bias", "not the id of a token"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "not the id of a token"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "from -100 to 100"),
        ({"logit_bias": {"5": True}}, "logit_bias.5", "from -100 to 100"),
        ({"metadata": {"a": 1}}, "metadata.a", "string"),
    ],
)
def test_errors_in_union_values_name_the_error_of_the_matching_type(more: JsonObject, param: str, why: str) -> None:
    message_text, error_param = rejection(USER, **more)
    assert error_param == param
    assert why in message_text and "valid string" not in message_text.replace(why, "")
