"""Every parameter of the official clients: it reaches the engine, has a documented other effect, or is refused by name.

A parameter that a new release of a client adds fails this test until it has a row here.
"""

from __future__ import annotations

from typing import Any

import pytest

from drw.generate.reference.openai_parameters import IN_PATH, OPENAI, SAMPLING, parameters
from models.cluster import ModelsCluster

REFUSED = "refused"
"""A 400 that names the parameter, before the engine is called."""
UNKNOWN = "unknown"
"""The same for an id that does not exist."""
NOTED = "noted"
"""Accepted and not sent to the engine; the reference has a note on its effect."""
SHAPES = "shapes"
"""Accepted, with an effect on the answer or on the conversation that other tests check."""
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
FUNCTION = {"type": "function", "name": "f", "parameters": {}}
CLAUDE_TOOL = {"name": "f", "input_schema": {"type": "object"}}
HELLO = [{"role": "user", "content": "hello"}]
SAMPLED = {"temperature": (0.5, {"temperature": 0.5}), "top_p": (0.5, {"top_p": 0.5})}
BOTH = SAMPLED | {
    "model": ("double", {"model": "up-1"}),
    "max_tokens": (7, {"max_tokens": 7}),
    "n": (2, {"n": 2}),
    "stop": (["a"], {"stop": ["a"]}),
    "seed": (3, {"seed": 3}),
    "presence_penalty": (0.5, {"presence_penalty": 0.5}),
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5}),
    "logit_bias": ({"1": 5}, {"logit_bias": {"1": 5}}),
    "stream": (True, SHAPES),
    "stream_options": ({"include_usage": True}, SHAPES),
    "user": ("u", {"user": "u"}),
}
CLAUDE: dict[str, tuple[Any, Any]] = {
    "model": ("double", {"model": "up-1"}),
    "messages": (HELLO, {"messages": HELLO}),
    "system": ("s", {"messages": [{"role": "system", "content": "s"}, *HELLO]}),
    "tools": (
        [CLAUDE_TOOL],
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ),
    "tool_choice": ({"type": "auto"}, SHAPES),
    "output_config": ({"effort": "low"}, {"reasoning_effort": "low"}),
    "thinking": ({"type": "adaptive"}, NOTED),
    "cache_control": ({"type": "ephemeral"}, NOTED),
    "speed": ("fast", REFUSED),
    "user_profile_id": ("u", REFUSED),
    "workspace_id": ("w", REFUSED),
}
ROWS: dict[str, dict[str, tuple[Any, Any]]] = {
    "chat/create": BOTH
    | {
        "messages": (HELLO, {"messages": HELLO}),
        "max_completion_tokens": (7, {"max_completion_tokens": 7}),
        "logprobs": (True, {"logprobs": True}),
        "top_logprobs": (2, {"top_logprobs": 2}),
        "response_format": ({"type": "json_object"}, {"response_format": {"type": "json_object"}}),
        "tools": ([TOOL], {"tools": [TOOL]}),
        "tool_choice": ("none", {"tool_choice": "none"}),
        "parallel_tool_calls": (False, {"parallel_tool_calls": False}),
        "reasoning_effort": ("low", {"reasoning_effort": "low"}),
        "verbosity": ("low", {"verbosity": "low"}),
        "prediction": ({"type": "content", "content": "a"}, {"prediction": {"type": "content", "content": "a"}}),
        **dict.fromkeys(("safety_identifier", "service_tier", "prompt_cache_key"), ("a", NOTED)),
        "metadata": ({"a": "b"}, NOTED),
        "store": (True, NOTED),
        "modalities": (["text"], NOTED),
        "functions": ([{"name": "f"}], REFUSED),
        "function_call": ("auto", REFUSED),
        "audio": ({"voice": "alloy", "format": "mp3"}, REFUSED),
        "web_search_options": ({}, REFUSED),
        "moderation": ({}, REFUSED),
        "prompt_cache_options": ({}, REFUSED),
        "prompt_cache_retention": ("24h", REFUSED),
    },
    "completions/create": BOTH
    | {
        "prompt": ("plain", {"prompt": "plain"}),
        "logprobs": (2, {"logprobs": 2}),
        "best_of": (2, REFUSED),
        "echo": (True, REFUSED),
        "suffix": ("a", REFUSED),
    },
    "embeddings/create": {
        "model": ("vectors", SHAPES),
        "input": ("hello", SHAPES),
        "dimensions": (2, SHAPES),
        "encoding_format": ("base64", SHAPES),
        "user": ("u", SHAPES),
    },
    "responses/create": SAMPLED
    | {
        "model": ("double", {"model": "up-1"}),
        "input": ("hello", {"messages": HELLO}),
        "instructions": ("s", {"messages": [{"role": "system", "content": "s"}, *HELLO]}),
        "max_output_tokens": (7, {"max_completion_tokens": 7}),
        "reasoning": ({"effort": "low"}, {"reasoning_effort": "low"}),
        "text": ({"verbosity": "low"}, {"verbosity": "low"}),
        "tools": ([FUNCTION], {"tools": [TOOL]}),
        "tool_choice": ("auto", SHAPES),
        "parallel_tool_calls": (False, SHAPES),
        "top_logprobs": (2, {"logprobs": True, "top_logprobs": 2}),
        "include": (["message.output_text.logprobs"], {"logprobs": True}),
        "previous_response_id": ("resp_gone", UNKNOWN),
        "metadata": ({"a": "b"}, SHAPES),
        "store": (False, NOTED),
        "stream": (True, SHAPES),
        "stream_options": ({"include_obfuscation": False}, SHAPES),
        "max_tool_calls": (1, NOTED),
        "service_tier": ("auto", NOTED),
        **dict.fromkeys(("safety_identifier", "prompt_cache_key", "user"), ("a", NOTED)),
        "background": (True, REFUSED),
        "context_management": ([{"type": "compaction"}], REFUSED),
        "conversation": ("conv_1", REFUSED),
        "truncation": ("auto", REFUSED),
        "prompt": ({"id": "p"}, REFUSED),
        "prompt_cache_retention": ("24h", REFUSED),
        **dict.fromkeys(
            ("access_programs", "background_options", "image", "moderation", "prompt_cache_options"), ({}, REFUSED)
        ),
    },
    "messages/create": CLAUDE
    | SAMPLED
    | {
        "top_k": (5, REFUSED),  # accepted by the bundled engine, and by models whose `parameters` name it
        "max_tokens": (7, {"max_tokens": 7}),
        "stop_sequences": (["a"], {"stop": ["a"]}),
        "metadata": ({"user_id": "u"}, NOTED),
        "service_tier": ("auto", NOTED),
        "stream": (True, SHAPES),
        "container": ("c", REFUSED),
        "diagnostics": ({}, REFUSED),
        "inference_geo": ("eu", REFUSED),
    },
}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat/create": ("/v1/chat/completions", {"model": "double", "messages": HELLO}),
    "completions/create": ("/v1/completions", {"model": "double", "prompt": "plain"}),
    "embeddings/create": ("/v1/embeddings", {"model": "vectors", "input": "hello"}),
    "responses/create": ("/v1/responses", {"model": "double", "input": "hello"}),
    "messages/create": ("/v1/messages", {"model": "double", "max_tokens": 9, "messages": HELLO}),
}
NEEDED = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}}
"""Parameters that another one needs."""


@pytest.mark.parametrize("page", ROWS)
async def test_every_parameter_is_honoured_or_refused(cluster: ModelsCluster, page: str) -> None:
    sampling = SAMPLING if page == "messages/create" else set()
    assert ROWS[page].keys() == set(OPENAI[page].__annotations__) - {IN_PATH} | sampling
    documented = {name: (supported, note) for name, supported, note in parameters(page)}
    path, base = REQUESTS[page]
    for name, (value, expected) in ROWS[page].items():
        needed = NEEDED.get(name, {}) if page == "chat/create" or name == "stream_options" else {}
        seen = len(cluster.double.bodies)
        answer = await cluster.http.post(path, json={**base, **needed, name: value})
        sent = cluster.double.bodies[seen:]
        if expected in (REFUSED, UNKNOWN):
            assert (answer.status_code, sent) == (400, []), name
            error = answer.json()["error"]
            assert error.get("param", name) == name and name in f"{error['message']} {error.get('param')}"
            assert documented[name][0] == ("yes" if expected == UNKNOWN or name == "top_k" else "no"), name
            continue
        assert answer.status_code == 200, f"{name}: {answer.text}"
        assert documented[name][0] == "yes", name
        if isinstance(expected, dict):
            (body,) = sent
            assert {key: body.get(key) for key in expected} == expected, name
        elif expected == NOTED:
            assert documented[name][1], f"{name} needs a note"
            assert name not in sent[0], name


async def test_parameters_of_the_token_count_are_those_of_the_prompt(cluster: ModelsCluster) -> None:
    page = "messages/count_tokens"
    assert {name for name, _, _ in parameters(page)} == CLAUDE.keys() == set(OPENAI[page].__annotations__)
    for name, (value, expected) in CLAUDE.items():
        body = {"model": "double", "messages": HELLO, name: value}
        error = (await cluster.http.post("/v1/messages/count_tokens", json=body)).json()["error"]
        assert (f"'{name}' is not supported" in error["message"]) == (expected == REFUSED), name


async def test_embeddings_have_their_forms(cluster: ModelsCluster) -> None:
    embed = cluster.client.embeddings.create
    texts = await embed(model="vectors", input=["hello", "hi"], dimensions=2)  # the client asks for base64
    assert [vector.embedding for vector in texts.data] == [[5.0, 0.5], [2.0, 0.5]]
    floats = await embed(model="vectors", input="hello", encoding_format="float")
    assert floats.data[0].embedding == [5.0, 0.5]
    tokens = await embed(model="vectors", input=[[1, 2, 3], [4]])
    assert [vector.embedding[0] for vector in tokens.data] == [3.0, 1.0]
    one = await embed(model="vectors", input=[1, 2, 3])
    assert [vector.embedding[0] for vector in one.data] == [3.0]
    answer = await cluster.http.post("/v1/embeddings", json={"model": "vectors", "input": "a", "dimensions": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dimensions")
