"""The llama.cpp server, as `drw.models.engine` runs it on a Unix socket or as anybody does elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from drw.models.serving.errors import EngineUnavailable, NotSupported
from drw.models.serving.ports import UNLIMITED, Body, ChatEngine, Chunk, Endpoint, Limits, Target
from drw.models.serving.tools import as_tool_calls, chosen_tools, constrained
from drw.models.serving.wire import Wire, WireSettings, bearer

PASSED = {
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "presence_penalty",
    "prompt",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
}
"""What the engine understands as OpenAI means it."""
RANDOM_SEED = 0xFFFFFFFF
"""The engine's seeds have 32 bits, and it takes this one for "any"."""
ROLES = {"developer": "system"}


class LlamaCppEngine(ChatEngine):
    """Puts requests into the words that the server takes, and enforces tool calls, which it does not."""

    Settings = WireSettings

    def __init__(self, settings: WireSettings) -> None:
        # The server ends the connection after a stream without saying so; a kept one would fail.
        self._wire = Wire(settings, reuse=False)

    def stream(
        self, target: Target, endpoint: Endpoint, body: Body, limits: Limits = UNLIMITED
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the server's chunks, with tool calls where the request has tools."""
        sent = translated(body, endpoint)
        tools = chosen_tools(sent)
        sent = constrained(sent, tools) | {
            "model": target.upstream_model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,  # each event says how many tokens there are by then
        }
        chunks = self._wire.stream(target, endpoint, sent, bearer(target), limits)
        return as_tool_calls(chunks, tools) if tools else chunks

    async def count_prompt(self, target: Target, endpoint: Endpoint, body: Body) -> int | None:
        """Ask the server, which counts as it will read."""
        sent = translated(body, endpoint)
        if endpoint == "completions":
            asked = {"content": sent["prompt"]}
            return len(await self._wire.ask(target, "/tokenize", asked, bearer(target), "tokens", list))
        sent = constrained(sent, chosen_tools(sent))
        asked, path = {"messages": sent["messages"]}, "chat/completions/input_tokens"
        return await self._wire.ask(target, path, asked, bearer(target), "input_tokens", int)

    async def check(self, target: Target) -> None:
        """Ask for its health: it answers with 503 while it loads."""
        if await self._wire.reach(target, "/health", {}) != 200:
            raise EngineUnavailable(f"the engine of {target.model!r} is still loading")

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()


def translated(body: Body, endpoint: Endpoint) -> Body:
    """Return a request in the server's words."""
    sent = {name: value for name, value in body.items() if name in PASSED}
    if endpoint == "completions" and "logprobs" in sent:
        raise NotSupported("logprobs", "ask for them at /v1/chat/completions")
    if "seed" in sent:
        sent["seed"] %= RANDOM_SEED
    if "messages" in sent:
        sent["messages"] = [_message(message) for message in sent["messages"]]
    return sent


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"]
    text = _text(message.get("content"))
    if calls := message.get("tool_calls"):
        said = [f'{{"name": "{c["function"]["name"]}", "arguments": {c["function"]["arguments"]}}}' for c in calls]
        text = "\n".join([text, *said] if text else said)
    if role == "tool":  # small models' templates know no such role
        return {"role": "user", "content": f"The function returned: {text}"}
    return {"role": ROLES.get(role, role), "content": text}


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] != "text" for part in content):
        raise NotSupported("messages", "this model reads text only")
    return "".join(part["text"] for part in content)
