"""Adapter for upstreams with OpenAI's API: OpenAI, vLLM, TGI, other gateways."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.engines.openai_client import OpenAIClient, authorization_header, malformed_response
from drw.models.serving.errors import EngineMisconfigured
from drw.models.serving.openai.requests import prompts_of
from drw.models.serving.openai.usage import sum_choices
from drw.models.serving.ports import (
    UNLIMITED,
    Body,
    ChatEngine,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
    Tokens,
    no_tokenizer,
)
from drw.models.serving.settings import ClientSettings

MAX_TOKENS_BYTES = 64 << 20
"""Size of an answer of the upstream's tokenizer."""


class OpenAiEngine(ChatEngine):
    """Passes requests on unchanged."""

    Settings = ClientSettings

    def __init__(self, settings: ClientSettings) -> None:
        self._client = OpenAIClient(settings, reuse=True)
        self._sends_salt, self._salt_key = settings.cache_salt, settings.cache_salt_key
        self._options = {"include_usage": True} | (
            {"continuous_usage_stats": True} if settings.continuous_usage else {}
        )

    def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the upstream's chunks."""
        request = {**body, "model": target.upstream_model, "stream": True, "stream_options": self._options}
        if self._sends_salt:
            request["cache_salt"] = cache_salt(caller_or_none(), self._salt_key)
        choices = (body.get("n") or 1) * len(prompts_of(body.get("prompt")))
        events = self._client.stream(
            target, endpoint, request, authorization_header(target), limits, hide_cache_counts=not self._sends_salt
        )
        return sum_choices(events, choices)

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Return None: the API cannot count tokens."""
        return None

    async def tokenize(
        self, target: EngineTarget, endpoint: Endpoint, body: Body, *, special: bool, strings: bool
    ) -> Tokens:
        """Return the tokens that vLLM's `/tokenize` returns; other upstreams do not have it."""
        request = {**body, "model": target.upstream_model, "add_special_tokens": special}
        answer = await self._tokenizer(target, "/tokenize", request | ({"return_token_strs": True} if strings else {}))
        ids, texts = answer.get("tokens"), answer.get("token_strs")
        if not isinstance(ids, list) or (strings and not isinstance(texts, list)):
            raise malformed_response(target)
        return Tokens(ids, texts if strings else None)

    async def detokenize(self, target: EngineTarget, tokens: Sequence[int]) -> str:
        """Return the text that vLLM's `/detokenize` returns."""
        request = {"model": target.upstream_model, "tokens": list(tokens)}
        text = (await self._tokenizer(target, "/detokenize", request)).get("prompt")
        if not isinstance(text, str):
            raise malformed_response(target)
        return text

    async def _tokenizer(self, target: EngineTarget, path: str, request: Body) -> dict[str, Any]:
        headers = authorization_header(target)
        try:
            answer = await self._client.fetch_json(target, path, request, headers, MAX_TOKENS_BYTES)
        except NotFound as error:  # OpenAI and most other upstreams have no tokenizer
            raise no_tokenizer(target) from error
        if not isinstance(answer, dict):
            raise malformed_response(target)
        return answer

    async def check(self, target: EngineTarget) -> None:
        """Request the list of models; any response except a rejected key counts as healthy."""
        if await self._client.probe(target, "models", authorization_header(target)) in (401, 403):
            raise EngineMisconfigured(f"the upstream of {target.model!r} rejects our key")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
