"""Prompts for a llama.cpp server as tokens: its chat template around texts whose special tokens stay plain text.

The server's chat endpoint fills the template and then reads control tokens out of all of it, those in a user's text
too. Here the template is filled with placeholders, read once with its control tokens, and each text is read without.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import Any

from drw.kernel.errors import InvalidRequest
from drw.models.serving.engines.openai_client import OpenAIClient, bearer
from drw.models.serving.ports import EngineTarget

Messages = list[dict[str, Any]]
Piece = int | str
"""A token of the template, or a text to be read as text."""

REMEMBERED, REMEMBERED_MESSAGES = 512, 64
SECONDS = 60.0
"""So long a template counts as the server's without asking again."""
MAX_TOKENS_BYTES = 64 << 20
GAP = -1
"""Stands between texts that are read in one question; the server passes numbers on as they are."""


class Prompts:
    """Turns requests into tokens."""

    def __init__(self, client: OpenAIClient) -> None:
        self._client = client
        self._nonce = secrets.token_hex(8)
        self._placeholder = re.compile(rf"drw{self._nonce}x(\d+)x")
        self._sizes: dict[str, int] = {}
        self._cache: OrderedDict[tuple[Any, ...], tuple[float, list[list[int] | int]]] = OrderedDict()

    async def chat(self, target: EngineTarget, messages: Messages) -> list[int]:
        """Return the tokens of a chat; raises as `OpenAIClient.ask` does."""
        pieces: list[Piece] = []
        for part in await self._template(target, messages):
            pieces += [messages[part]["content"]] if isinstance(part, int) else part
        return await self._read(target, pieces, special=False)

    async def completion(self, target: EngineTarget, prompt: str | list[int]) -> list[int]:
        """Return the tokens of a bare prompt, with what the model wants in front of any text; tokens are its own.

        Raises:
            InvalidRequest: the model has no such token, or there is none.
        """
        if not isinstance(prompt, str):
            if (largest := max(prompt)) >= (size := await self._vocabulary(target)) > 0:
                message = f"prompt has the token id {largest}; the tokenizer of {target.model!r} has 0 to {size - 1}"
                raise InvalidRequest(f"{message}: send text, or ids of this tokenizer", param="prompt")
            return prompt
        if not (tokens := await self._read(target, [prompt], special=False)):
            raise InvalidRequest("prompt is empty: this model needs at least one token", param="prompt")
        return tokens

    async def _vocabulary(self, target: EngineTarget) -> int:
        """Return how many tokens the model has; 0: an older server does not say, and judges by itself."""
        if (size := self._sizes.get(target.base_url)) is None:
            loaded = await self._client.ask(target, "models", None, bearer(target), "data", list)
            meta = next((model.get("meta") or {} for model in loaded if isinstance(model, dict)), {})
            size = self._sizes[target.base_url] = int(meta.get("n_vocab") or 0)
        return size

    async def _template(self, target: EngineTarget, messages: Messages) -> list[list[int] | int]:
        """Return the template's tokens, and between them which message's text stands there."""
        shape = tuple((message["role"], bool(message["content"])) for message in messages)
        key = (target.base_url, target.upstream_model, shape)
        until, parts = self._cache.get(key, (0.0, []))
        if until < monotonic():
            parts = await self._filled(target, messages)
            if len(messages) <= REMEMBERED_MESSAGES:
                self._cache[key] = monotonic() + SECONDS, parts
            while len(self._cache) > REMEMBERED:
                self._cache.popitem(last=False)
        return parts

    async def _filled(self, target: EngineTarget, messages: Messages) -> list[list[int] | int]:
        shown = [
            {"role": message["role"], "content": message["content"] and f"drw{self._nonce}x{number}x"}
            for number, message in enumerate(messages)
        ]
        request = {"messages": shown}
        text = await self._client.ask(target, "/apply-template", request, bearer(target), "prompt", str)
        around = self._placeholder.split(text)
        pieces: list[Piece] = [around[0]]
        for segment in around[2::2]:
            pieces += [GAP, segment]
        tokens = await self._read(target, pieces, special=True)
        parts: list[list[int] | int] = []
        for number in around[1::2]:
            end = tokens.index(GAP)
            parts += [tokens[:end], int(number)]
            tokens = tokens[end + 1 :]
        return [*parts, tokens]

    async def _read(self, target: EngineTarget, pieces: Sequence[Piece], *, special: bool) -> list[int]:
        request = {"content": pieces, "add_special": True, "parse_special": special}
        headers = bearer(target)
        return await self._client.ask(target, "/tokenize", request, headers, "tokens", list, MAX_TOKENS_BYTES)
