"""Adapter for llama.cpp servers: `drw.models.engine` on a Unix socket, or a remote server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.engines.logprobs import MAX_CANDIDATES, Logprobs
from drw.models.serving.engines.openai_client import OpenAIClient, authorization_header, timeout_error
from drw.models.serving.engines.prompts import Messages, PromptTokenizer
from drw.models.serving.engines.schema_compiler import SchemaCompilers
from drw.models.serving.engines.slots import SlotLease, SlotPool
from drw.models.serving.errors import EngineUnavailable, NotSupported
from drw.models.serving.openai.schema_limits import without_look_around
from drw.models.serving.openai.tools import (
    allowed_tools,
    as_tool_calls,
    separate_formats,
    with_tool_schema,
)
from drw.models.serving.openai.usage import with_usage
from drw.models.serving.ports import (
    NO_DEADLINE,
    UNLIMITED,
    Body,
    ChatEngine,
    Chunk,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
    Tokens,
)
from drw.models.serving.routing.candidates import split_prompts
from drw.models.serving.settings import ClientSettings

FORWARDED = {
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "presence_penalty",
    "repeat_penalty",
    "temperature",
    "top_k",
    "top_p",
}
"""Parameters with the same meaning in OpenAI's API, `top_k`, and `repeat_penalty` of a model's settings."""
RANDOM_SEED = 0xFFFFFFFF
"""The server's seeds have 32 bits; this one means a random seed."""
ROLES = {"developer": "system"}
GUIDANCE = {"coerce_one_of": True, "whitespace_flexible": False}
"""How the engine compiles schemas: `oneOf` as `anyOf`, and no white space between JSON tokens. If white space is
allowed, small models repeat it until `max_tokens`."""


class LlamaCppEngine(ChatEngine):
    """Sends prompts as tokens and choices one after the other; never shares a prefix cache between tenants.

    Schemas are compiled in a separate process first. Tool calls are enforced by a schema, because the server does not
    enforce them.
    """

    Settings = ClientSettings
    parameters = frozenset({"top_k"})

    def __init__(self, settings: ClientSettings) -> None:
        # The server closes the connection after a stream without announcing it, so connections are not reused.
        self._client = OpenAIClient(settings, reuse=False)
        self._reuse = settings.reuse_prompts
        self._tokenizer = PromptTokenizer(self._client)
        self._compilers = SchemaCompilers()
        self._slots: dict[str, SlotPool] = {}

    def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the chunks of the server, with tool calls if the request has tools."""
        ids = [prompt.ids for prompt in prompts]
        if len(bodies := split_prompts(body)) > 1:
            return with_usage(self._stream_prompts(target, endpoint, bodies, limits, ids))
        tools = allowed_tools(body)
        formats = separate_formats(tools)
        chunks = self._stream_choices(target, endpoint, with_tool_schema(body, tools), limits, formats, *ids)
        return with_usage(as_tool_calls(chunks, tools, body.get("stop")) if tools else chunks)

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Tokenize the prompt as it will be sent."""
        ids = await self._tokenize(target, endpoint, with_tool_schema(body, allowed_tools(body)))
        return CountedPrompt(len(ids), ids)

    async def tokenize(
        self, target: EngineTarget, endpoint: Endpoint, body: Body, *, special: bool, strings: bool
    ) -> Tokens:
        """Return the tokens that the engine would process for the request."""
        if endpoint == "chat/completions":
            if strings:
                raise NotSupported("return_token_strs", "this engine has the texts of tokens only for a prompt")
            if special:
                raise NotSupported("add_special_tokens", "the chat template of this engine contains them already")
            return Tokens(await self._tokenize(target, endpoint, body))
        ids, texts = await self._tokenizer.with_pieces(target, body["prompt"], special=special)
        return Tokens(ids, texts if strings else None)

    async def detokenize(self, target: EngineTarget, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return await self._tokenizer.text(target, tokens)

    async def check(self, target: EngineTarget) -> None:
        """Request the health endpoint; the server returns 503 while it loads."""
        if await self._client.probe(target, "/health", {}) != 200:
            raise EngineUnavailable(f"the engine of {target.model!r} is still loading")

    async def close(self) -> None:
        """Close the connections and end the compiler processes."""
        await self._client.close()
        await self._compilers.close()

    async def _stream_prompts(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        bodies: list[Body],
        limits: EngineLimits,
        ids: Sequence[Sequence[int]],
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of one prompt after the other, and at the end the usage of all prompts."""
        usage = Counter[str]()
        for number, body in enumerate(bodies):
            before = usage["prompt_tokens"]
            chunks = self._stream_choices(target, endpoint, body, limits, (), *ids[number : number + 1])
            try:
                async for chunk in chunks:
                    chunk_usage = chunk.pop("usage", None) or {}
                    usage.update({name: count for name, count in chunk_usage.items() if isinstance(count, int)})
                    if timings := chunk.get("timings"):  # counts of this prompt only
                        timings["prompt_n"] = timings.get("prompt_n", 0) + before
                    for choice in chunk.get("choices") or ():
                        choice["index"] += number * (body.get("n") or 1)
                    yield chunk
            finally:
                await chunks.aclose()
            limits = EngineLimits(deadline=limits.deadline)  # the first token has arrived
        yield {"choices": [], "usage": dict(usage)}

    async def _stream_choices(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits,
        formats: Sequence[tuple[str, dict[str, Any]]] = (),
        ids: Sequence[int] = (),
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of each choice, and at the end the usage of all choices.

        The schemas of `formats`, given with their parameters, must compile in addition to the schema of the answer.
        `ids` are the tokens of the prompt, if they were counted.
        """
        sent = server_request(body, endpoint)
        schemas = [(param, schema) for param, form in formats if (schema := _answer_schema(form))]
        if "json_schema" in sent:
            schemas.append(("tools" if body.get("tools") else "response_format", sent["json_schema"]))
        usage: dict[str, Any] = {}
        async with self._acquire_slot(target, endpoint, body, schemas, limits, ids) as (lease, tokens):
            prompt = {"prompt": tokens, "id_slot": lease.slot_id, "cache_prompt": lease.reuse and self._reuse}
            for index in range(body.get("n") or 1):
                events = self._client.stream(
                    target,
                    "completions",
                    {**sent, **prompt, **_choice_seed(body, index)},
                    authorization_header(target),
                    limits,
                )
                started = False
                logprobs = Logprobs(greedy=_is_greedy(body)) if sent.get("logprobs") else None
                try:
                    async for chunk, _ in events:
                        lease.prompt_read()  # the first token proves that the whole prompt was processed
                        _add_usage(usage, chunk.pop("usage", None))
                        matched_stop = (chunk.pop("__verbose", None) or {}).get("stopping_word")
                        for choice in chunk.get("choices") or ():
                            choice["index"] = index
                            if matched_stop and choice.get("finish_reason") == "stop":
                                choice["stop_reason"] = matched_stop  # as in vLLM
                            if logprobs is not None:
                                logprobs.add(choice, (chunk.get("timings") or {}).get("predicted_n", 0))
                                if choice.get("finish_reason") and logprobs.missing:
                                    probe = partial(
                                        self._likely_tokens, target, prompt, EngineLimits(deadline=limits.deadline)
                                    )
                                    choice["logprobs"] = {"content": await logprobs.remaining_entries(probe)}
                            if endpoint == "chat/completions":
                                _to_chat_choice(choice, body, first=not started)
                            started = True
                        yield chunk
                finally:
                    await events.aclose()
                prompt["cache_prompt"] = self._reuse  # the slot has the prompt of this caller now
                limits = EngineLimits(deadline=limits.deadline)  # the first token has arrived
        if usage:
            yield {"choices": [], "usage": usage}

    async def _likely_tokens(
        self, target: EngineTarget, prompt: Body, limits: EngineLimits, generated: list[int], number: int
    ) -> list[dict[str, Any]]:
        """Return the most likely tokens after a prompt and the generated tokens, in the slot that has processed both.

        The server reports candidates only for tokens that are text. A logit bias therefore forces a text token.
        """
        forced = (await self._tokenizer.completion(target, "a"))[-1]
        request = {"prompt": [*prompt["prompt"], *generated], "max_tokens": 1, "temperature": 0, "logprobs": number}
        request |= {"logit_bias": {str(forced): 100}, "cache_prompt": True, "stream": True}
        events = self._client.stream(target, "completions", {**prompt, **request}, authorization_header(target), limits)
        async with aclosing(events):
            async for chunk, _ in events:
                for choice in chunk.get("choices") or ():
                    if content := (choice.get("logprobs") or {}).get("content"):
                        candidates: list[dict[str, Any]] = content[0]["top_logprobs"]
                        return candidates
        return []

    @asynccontextmanager
    async def _acquire_slot(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        schemas: list[tuple[str, dict[str, Any]]],
        limits: EngineLimits,
        ids: Sequence[int],
    ) -> AsyncIterator[tuple[SlotLease, Sequence[int]]]:
        """Compile the schemas, tokenize the prompt and wait for a slot; yield its lease and the tokens."""
        slot_deadline = min(limits.first_token, limits.deadline)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(None if slot_deadline == NO_DEADLINE else slot_deadline):
                    for param, schema in schemas:
                        await self._compilers.check(schema, param)
                    tokens = ids or await self._tokenize(target, endpoint, body)
                    slots = await self._slots_at(target)
                    lease = await stack.enter_async_context(slots.acquire(cache_salt(caller_or_none()), tokens))
            except TimeoutError as error:
                raise timeout_error(target, limits.deadline) from error
            yield lease, tokens

    async def _slots_at(self, target: EngineTarget) -> SlotPool:
        if (slots := self._slots.get(target.base_url)) is None:
            number = await self._client.fetch_field(
                target, "/props", None, authorization_header(target), "total_slots", int
            )
            slots = self._slots.setdefault(target.base_url, SlotPool(max(1, number)))
        return slots

    async def _tokenize(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> list[int]:
        if endpoint == "completions":
            return await self._tokenizer.completion(target, body["prompt"])
        return await self._tokenizer.chat(target, template_messages(body))


def server_request(body: Body, endpoint: Endpoint) -> Body:
    """Return the request in the format of the server, without prompt and seed."""
    if endpoint == "completions" and "logprobs" in body:
        raise NotSupported("logprobs", "ask for them at /v1/chat/completions")
    sent = {name: value for name, value in body.items() if name in FORWARDED}
    if stop := body.get("stop"):
        sent["stop"] = [stop] if isinstance(stop, str) else stop
        sent["verbose"] = True  # reports the matched stop sequence
    if body.get("logprobs"):
        sent["logprobs"] = MAX_CANDIDATES
    if schema := _answer_schema(body.get("response_format") or {}):
        sent["json_schema"] = schema
    return sent | {
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,  # token counts in each event
    }


def template_messages(body: Body) -> Messages:
    """Return the messages of a chat for the chat template: role and text."""
    return [_template_message(message) for message in body["messages"]]


def _template_message(message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"]
    text = _content_text(message.get("content"))
    if calls := message.get("tool_calls"):
        calls_text = [
            f'{{"name": "{c["function"]["name"]}", "arguments": {c["function"]["arguments"]}}}' for c in calls
        ]
        text = "\n".join([text, *calls_text] if text else calls_text)
    if role == "tool":  # not supported by the templates of small models
        return {"role": "user", "content": f"The function returned: {text}"}
    return {"role": ROLES.get(role, role), "content": text}


def _content_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] == "image_url" for part in content):
        raise NotSupported("messages", "this model supports text only")
    return "".join(part[part["type"]] for part in content)


def _answer_schema(response_format: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a response format. Without `strict`, the engine ignores unsupported keywords."""
    if response_format.get("type") == "json_object":
        return {"type": "object", "x-guidance": GUIDANCE}
    if response_format.get("type") != "json_schema":
        return None
    json_schema = response_format["json_schema"]
    strict = bool(json_schema.get("strict"))
    schema = json_schema["schema"] if strict else without_look_around(json_schema["schema"])
    return {**schema, "x-guidance": {**GUIDANCE, "lenient": not strict}}


def _choice_seed(body: Body, index: int) -> Body:
    return {"seed": (body["seed"] + index) % RANDOM_SEED} if "seed" in body else {}


def _to_chat_choice(choice: dict[str, Any], body: Body, *, first: bool) -> None:
    """Convert a choice of a completion to a choice of a chat."""
    text = choice.pop("text", None)
    choice["delta"] = ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})
    for token in (choice.get("logprobs") or {}).get("content") or ():
        token["top_logprobs"] = token.get("top_logprobs", [])[: body.get("top_logprobs") or 0]


def _is_greedy(body: Body) -> bool:
    """Return whether the most likely token by the reported logprobs is always generated."""
    modifiers = {"logit_bias", "frequency_penalty", "presence_penalty", "repeat_penalty", "response_format"}
    return body.get("temperature") == 0 and not body.keys() & modifiers


def _add_usage(usage: dict[str, Any], choice_usage: dict[str, Any] | None) -> None:
    """Add the usage of another choice; the prompt counts once."""
    if not choice_usage:
        return
    if not usage:
        usage |= choice_usage
        return
    usage["completion_tokens"] += choice_usage.get("completion_tokens", 0)
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
