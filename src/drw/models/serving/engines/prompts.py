"""Tokenizes prompts for a llama.cpp server; special tokens in the texts of callers stay plain text.

The server's chat endpoint fills the chat template and parses special tokens in all of it, including the texts of users.
Here the template is filled with placeholders and tokenized with special tokens; each text is tokenized without them.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import Any

from drw.kernel.errors import InvalidRequest
from drw.models.serving.engines.openai_client import OpenAIClient, authorization_header
from drw.models.serving.ports import EngineTarget

Messages = list[dict[str, Any]]
Segment = int | str
"""A token of the template, or a text."""

MAX_CACHED_TEMPLATES, MAX_CACHED_MESSAGES = 512, 64
CACHE_SECONDS = 60.0
"""Lifetime of a cached template."""
MAX_TOKENS_BYTES = 64 << 20
SEPARATOR = -1
"""Separates the texts of one tokenize request; the server returns numbers unchanged."""


class PromptTokenizer:
    """Converts prompts to token ids."""

    def __init__(self, client: OpenAIClient) -> None:
        self._client = client
        self._nonce = secrets.token_hex(8)
        self._placeholder = re.compile(rf"drw{self._nonce}x(\d+)x")
        self._vocabulary_sizes: dict[str, int] = {}
        self._cache: OrderedDict[tuple[Any, ...], tuple[float, list[list[int] | int]]] = OrderedDict()

    async def chat(self, target: EngineTarget, messages: Messages) -> list[int]:
        """Return the tokens of a chat; raises as `OpenAIClient.fetch_field` does."""
        segments: list[Segment] = []
        for part in await self._template_parts(target, messages):
            segments += [messages[part]["content"]] if isinstance(part, int) else part
        return await self._tokenize(target, segments, special=False)

    async def completion(self, target: EngineTarget, prompt: str | list[int]) -> list[int]:
        """Return the tokens of a completion prompt, with the model's prefix token if it has one. Ids stay as they are.

        Raises:
            InvalidRequest: a token id is outside the vocabulary, or the prompt has no tokens.
        """
        if not isinstance(prompt, str):
            if (largest := max(prompt)) >= (size := await self._vocabulary_size(target)) > 0:
                message = f"prompt has the token id {largest}; the tokenizer of {target.model!r} has 0 to {size - 1}"
                raise InvalidRequest(f"{message}: send text, or ids of this tokenizer", param="prompt")
            return prompt
        if not (tokens := await self._tokenize(target, [prompt], special=False)):
            raise InvalidRequest("prompt is empty: this model needs at least one token", param="prompt")
        return tokens

    async def with_pieces(self, target: EngineTarget, prompt: str, *, special: bool) -> tuple[list[int], list[str]]:
        """Return the tokens of a text with the text of each; `special`: with the model's prefix token.

        Bytes that are no complete character are replaced by U+FFFD.
        """
        request = {"content": prompt, "add_special": special, "parse_special": False, "with_pieces": True}
        headers = authorization_header(target)
        tokens = await self._client.fetch_field(target, "/tokenize", request, headers, "tokens", list, MAX_TOKENS_BYTES)
        pieces = (token["piece"] for token in tokens)
        texts = [piece if isinstance(piece, str) else bytes(piece).decode(errors="replace") for piece in pieces]
        return [token["id"] for token in tokens], texts

    async def text(self, target: EngineTarget, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        await self.completion(target, list(tokens))  # checks that they are in the vocabulary
        request = {"tokens": list(tokens)}
        headers = authorization_header(target)
        return await self._client.fetch_field(target, "/detokenize", request, headers, "content", str, MAX_TOKENS_BYTES)

    async def _vocabulary_size(self, target: EngineTarget) -> int:
        """Return the size of the vocabulary; 0: older servers do not report it, and check ids themselves."""
        if (size := self._vocabulary_sizes.get(target.base_url)) is None:
            models = await self._client.fetch_field(target, "models", None, authorization_header(target), "data", list)
            meta = next((model.get("meta") or {} for model in models if isinstance(model, dict)), {})
            size = self._vocabulary_sizes[target.base_url] = int(meta.get("n_vocab") or 0)
        return size

    async def _template_parts(self, target: EngineTarget, messages: Messages) -> list[list[int] | int]:
        """Return the tokens of the filled template, with the index of a message in place of each text."""
        roles = tuple((message["role"], bool(message["content"])) for message in messages)
        key = (target.base_url, target.upstream_model, roles)
        expires_at, parts = self._cache.get(key, (0.0, []))
        if expires_at < monotonic():
            parts = await self._tokenize_template(target, messages)
            if len(messages) <= MAX_CACHED_MESSAGES:
                self._cache[key] = monotonic() + CACHE_SECONDS, parts
            while len(self._cache) > MAX_CACHED_TEMPLATES:
                self._cache.popitem(last=False)
        return parts

    async def _tokenize_template(self, target: EngineTarget, messages: Messages) -> list[list[int] | int]:
        placeholders = [
            {"role": message["role"], "content": message["content"] and f"drw{self._nonce}x{number}x"}
            for number, message in enumerate(messages)
        ]
        request = {"messages": placeholders}
        text = await self._client.fetch_field(
            target, "/apply-template", request, authorization_header(target), "prompt", str
        )
        split_text = self._placeholder.split(text)
        segments: list[Segment] = [split_text[0]]
        for segment in split_text[2::2]:
            segments += [SEPARATOR, segment]
        tokens = await self._tokenize(target, segments, special=True)
        parts: list[list[int] | int] = []
        for number in split_text[1::2]:
            end = tokens.index(SEPARATOR)
            parts += [tokens[:end], int(number)]
            tokens = tokens[end + 1 :]
        return [*parts, tokens]

    async def _tokenize(self, target: EngineTarget, segments: Sequence[Segment], *, special: bool) -> list[int]:
        request = {"content": segments, "add_special": True, "parse_special": special}
        headers = authorization_header(target)
        return await self._client.fetch_field(target, "/tokenize", request, headers, "tokens", list, MAX_TOKENS_BYTES)
