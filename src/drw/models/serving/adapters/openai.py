"""Any upstream that speaks OpenAI's API: OpenAI itself, vLLM, TGI, another gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.engines.openai_client import OpenAIClient, bearer
from drw.models.serving.errors import EngineMisconfigured
from drw.models.serving.openai.requests import prompts_of
from drw.models.serving.openai.usage import of_all_choices, with_usage
from drw.models.serving.ports import (
    UNLIMITED,
    Body,
    ChatEngine,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
)
from drw.models.serving.settings import ClientSettings


class OpenAiEngine(ChatEngine):
    """Passes requests on as they are."""

    Settings = ClientSettings

    def __init__(self, settings: ClientSettings) -> None:
        self._client = OpenAIClient(settings, reuse=True)
        self._salted, self._salt_key = settings.cache_salt, settings.cache_salt_key
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
        sent = {**body, "model": target.upstream_model, "stream": True, "stream_options": self._options}
        if self._salted:
            sent["cache_salt"] = cache_salt(caller_or_none(), self._salt_key)
        choices = (body.get("n") or 1) * len(prompts_of(body.get("prompt")))
        chunks = self._client.stream(target, endpoint, sent, bearer(target), limits, hides_cache=not self._salted)
        return with_usage(of_all_choices(chunks, choices))

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Return None: the API has no way to ask."""
        return None

    async def check(self, target: EngineTarget) -> None:
        """Ask for the list of models; any answer but a refusal of our key will do."""
        if await self._client.reach(target, "models", bearer(target)) in (401, 403):
            raise EngineMisconfigured(f"the upstream of {target.model!r} refuses our key")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
