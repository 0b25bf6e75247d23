"""The llama.cpp server, as `drw.models.engine` runs it on a Unix socket or as anybody does elsewhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.engines.logprobs import CANDIDATES, Logprobs
from drw.models.serving.engines.openai_client import OpenAIClient, bearer, stalled
from drw.models.serving.engines.prompts import Messages, Prompts
from drw.models.serving.engines.schema_compiler import SchemaCompilers
from drw.models.serving.engines.slots import Slots, Turn
from drw.models.serving.errors import EngineUnavailable, NotSupported
from drw.models.serving.openai.schema_limits import without_look_around
from drw.models.serving.openai.tools import Tools, as_tool_calls, chosen_tools, constrained, strict_among_others
from drw.models.serving.openai.usage import with_usage
from drw.models.serving.ports import (
    FOREVER,
    UNLIMITED,
    Body,
    ChatEngine,
    Chunk,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
)
from drw.models.serving.routing.candidates import split
from drw.models.serving.settings import ClientSettings

PASSED = {
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "presence_penalty",
    "repeat_penalty",
    "temperature",
    "top_p",
}
"""What the engine understands as OpenAI means it, and a penalty that only a model's settings give."""
RANDOM_SEED = 0xFFFFFFFF
"""The engine's seeds have 32 bits, and it takes this one for "any"."""
ROLES = {"developer": "system"}
GUIDANCE = {"coerce_one_of": True, "whitespace_flexible": False}
"""How the engine reads schemas: `oneOf` as `anyOf`, and no white space between tokens of JSON. A pattern for it may be
repeated without end, and small models do so until `max_tokens`."""


class LlamaCppEngine(ChatEngine):
    """Sends prompts as tokens, one choice after the other, and keeps each tenant's prompts to itself.

    Schemas are compiled elsewhere first. Tool calls are enforced by a schema: the server does not.
    """

    Settings = ClientSettings

    def __init__(self, settings: ClientSettings) -> None:
        # The server ends the connection after a stream without saying so; a kept one would fail.
        self._client = OpenAIClient(settings, reuse=False)
        self._reuse = settings.reuse_prompts
        self._prompts = Prompts(self._client)
        self._compilers = SchemaCompilers()
        self._slots: dict[str, Slots] = {}

    def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the server's chunks, with tool calls where the request has tools."""
        ids = [prompt.ids for prompt in prompts]
        if len(bodies := split(body)) > 1:
            return with_usage(self._each_prompt(target, endpoint, bodies, limits, ids))
        tools = chosen_tools(body)
        strict = strict_among_others(tools)
        chunks = self._choices(target, endpoint, constrained(body, tools), limits, strict, *ids)
        return with_usage(as_tool_calls(chunks, tools, body.get("stop")) if tools else chunks)

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Count the tokens of the prompt as it will be sent."""
        ids = await self._tokens(target, endpoint, constrained(body, chosen_tools(body)))
        return CountedPrompt(len(ids), ids)

    async def check(self, target: EngineTarget) -> None:
        """Ask for its health: it answers with 503 while it loads."""
        if await self._client.reach(target, "/health", {}) != 200:
            raise EngineUnavailable(f"the engine of {target.model!r} is still loading")

    async def close(self) -> None:
        """Close the connections, and end the compilers."""
        await self._client.close()
        await self._compilers.close()

    async def _each_prompt(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        bodies: list[Body],
        limits: EngineLimits,
        ids: Sequence[Sequence[int]],
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of one prompt after the other, and last the usage of all."""
        usage = Counter[str]()
        for number, body in enumerate(bodies):
            before = usage["prompt_tokens"]
            chunks = self._choices(target, endpoint, body, limits, None, *ids[number : number + 1])
            try:
                async for chunk in chunks:
                    own = chunk.pop("usage", None) or {}
                    usage.update({name: count for name, count in own.items() if isinstance(count, int)})
                    if timings := chunk.get("timings"):  # of this prompt alone
                        timings["prompt_n"] = timings.get("prompt_n", 0) + before
                    for choice in chunk.get("choices") or ():
                        choice["index"] += number * (body.get("n") or 1)
                    yield chunk
            finally:
                await chunks.aclose()
            limits = EngineLimits(end=limits.end)  # the first token of all has come
        yield {"choices": [], "usage": dict(usage)}

    async def _choices(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits,
        strict: Tools | None = None,
        ids: Sequence[int] = (),
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of each choice, and last the usage of all: the server itself counts the first one only.

        `strict` are functions whose schemas must compile as they are, beside the schema of the answer. `ids` are the
        tokens of the prompt, if they were counted.
        """
        sent = translated(body, endpoint)
        schemas = [_strict_schema(tool["parameters"]) for tool in (strict or {}).values()]
        schemas += [sent["json_schema"]] if "json_schema" in sent else []
        usage: dict[str, Any] = {}
        async with self._turn(target, endpoint, body, schemas, limits, ids) as (turn, tokens):
            prompt = {"prompt": tokens, "id_slot": turn.slot, "cache_prompt": turn.reuse and self._reuse}
            for index in range(body.get("n") or 1):
                chunks = self._client.stream(
                    target, "completions", {**sent, **prompt, **_seed(body, index)}, bearer(target), limits
                )
                begun = False
                logprobs = Logprobs(greedy=_greedy(body)) if sent.get("logprobs") else None
                try:
                    async for chunk in chunks:
                        turn.read()  # no token comes before the whole prompt is read
                        _add(usage, chunk.pop("usage", None))
                        for choice in chunk.get("choices") or ():
                            choice["index"] = index
                            if logprobs is not None:
                                logprobs.take(choice, (chunk.get("timings") or {}).get("predicted_n", 0))
                                if choice.get("finish_reason") and logprobs.missing:
                                    probe = partial(self._likely, target, prompt, EngineLimits(end=limits.end))
                                    choice["logprobs"] = {"content": await logprobs.rest(probe)}
                            if endpoint == "chat/completions":
                                _to_chat(choice, body, first=not begun)
                            begun = True
                        yield chunk
                finally:
                    await chunks.aclose()
                prompt["cache_prompt"] = self._reuse  # what the choice before has read is this caller's own
                limits = EngineLimits(end=limits.end)  # the first token of all has come
        if usage:
            yield {"choices": [], "usage": usage}

    async def _likely(
        self, target: EngineTarget, prompt: Body, limits: EngineLimits, before: list[int], number: int
    ) -> list[dict[str, Any]]:
        """Return so many of the likeliest tokens after a prompt and what was generated, in the slot that has read both.

        The server tells of tokens that are text: one that is follows by force, and those that were likelier beside it.
        """
        text = (await self._prompts.completion(target, "a"))[-1]
        request = {"prompt": [*prompt["prompt"], *before], "max_tokens": 1, "temperature": 0, "logprobs": number}
        request |= {"logit_bias": {str(text): 100}, "cache_prompt": True, "stream": True}
        chunks = self._client.stream(target, "completions", {**prompt, **request}, bearer(target), limits)
        async with aclosing(chunks):
            async for chunk in chunks:
                for choice in chunk.get("choices") or ():
                    if content := (choice.get("logprobs") or {}).get("content"):
                        likely: list[dict[str, Any]] = content[0]["top_logprobs"]
                        return likely
        return []

    @asynccontextmanager
    async def _turn(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        schemas: list[dict[str, Any]],
        limits: EngineLimits,
        ids: Sequence[int],
    ) -> AsyncIterator[tuple[Turn, Sequence[int]]]:
        """Compile the schemas, read the prompt as tokens, wait for a slot; give the turn at it, and the tokens."""
        latest = min(limits.first_token, limits.end)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(None if latest == FOREVER else latest):
                    for schema in schemas:
                        await self._compilers.check(schema, "tools" if body.get("tools") else "response_format")
                    tokens = ids or await self._tokens(target, endpoint, body)
                    slots = await self._slots_of(target)
                    turn = await stack.enter_async_context(slots.turn(cache_salt(caller_or_none()), tokens))
            except TimeoutError as error:
                raise stalled(target, limits.end) from error
            yield turn, tokens

    async def _slots_of(self, target: EngineTarget) -> Slots:
        if (slots := self._slots.get(target.base_url)) is None:
            number = await self._client.ask(target, "/props", None, bearer(target), "total_slots", int)
            slots = self._slots.setdefault(target.base_url, Slots(max(1, number)))
        return slots

    async def _tokens(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> list[int]:
        if endpoint == "completions":
            return await self._prompts.completion(target, body["prompt"])
        return await self._prompts.chat(target, messages(body))


def translated(body: Body, endpoint: Endpoint) -> Body:
    """Return a request in the server's words, without its prompt and its seed."""
    if endpoint == "completions" and "logprobs" in body:
        raise NotSupported("logprobs", "ask for them at /v1/chat/completions")
    sent = {name: value for name, value in body.items() if name in PASSED}
    if stop := body.get("stop"):
        sent["stop"] = [stop] if isinstance(stop, str) else stop
    if body.get("logprobs"):
        sent["logprobs"] = CANDIDATES
    if schema := _schema(body.get("response_format") or {}):
        sent["json_schema"] = schema
    return sent | {
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,  # each event says how many tokens there are by then
    }


def messages(body: Body) -> Messages:
    """Return the messages of a chat as templates know them: a role and a text."""
    return [_message(message) for message in body["messages"]]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"]
    text = _text(message.get("content"))
    if calls := message.get("tool_calls"):
        written = [f'{{"name": "{c["function"]["name"]}", "arguments": {c["function"]["arguments"]}}}' for c in calls]
        text = "\n".join([text, *written] if text else written)
    if role == "tool":  # small models' templates know no such role
        return {"role": "user", "content": f"The function returned: {text}"}
    return {"role": ROLES.get(role, role), "content": text}


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] == "image_url" for part in content):
        raise NotSupported("messages", "this model reads text only")
    return "".join(part[part["type"]] for part in content)


def _schema(form: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a form. One that is not strict may have keywords that the engine does not know."""
    if form.get("type") == "json_object":
        return {"type": "object", "x-guidance": GUIDANCE}
    if form.get("type") != "json_schema":
        return None
    named = form["json_schema"]
    strict = bool(named.get("strict"))
    schema = named["schema"] if strict else without_look_around(named["schema"])
    return {**schema, "x-guidance": {**GUIDANCE, "lenient": not strict}}


def _strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": {**GUIDANCE, "lenient": False}}


def _seed(body: Body, index: int) -> Body:
    return {"seed": (body["seed"] + index) % RANDOM_SEED} if "seed" in body else {}


def _to_chat(choice: dict[str, Any], body: Body, *, first: bool) -> None:
    """Make a choice of a completion one of a chat."""
    text = choice.pop("text", None)
    choice["delta"] = ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})
    for token in (choice.get("logprobs") or {}).get("content") or ():
        token["top_logprobs"] = token.get("top_logprobs", [])[: body.get("top_logprobs") or 0]


def _greedy(body: Body) -> bool:
    """Tell whether the likeliest token is generated each time, by what the server says of them."""
    others = {"logit_bias", "frequency_penalty", "presence_penalty", "repeat_penalty", "response_format"}
    return body.get("temperature") == 0 and not body.keys() & others


def _add(usage: dict[str, Any], more: dict[str, Any] | None) -> None:
    """Add what a further choice took; the prompt counts once."""
    if not more:
        return
    if not usage:
        usage |= more
        return
    usage["completion_tokens"] += more.get("completion_tokens", 0)
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
