"""Adapter for Vertex AI's OpenAI-compatible endpoint, with the token of the workload's Google account.

`base_url` is https://LOCATION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/LOCATION/endpoints/openapi,
`upstream_model` is for example "google/gemini-2.5-flash".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import google.auth
import google.auth.exceptions
import google.auth.transport.requests

from drw.models.serving.engines.openai_client import OpenAIClient
from drw.models.serving.errors import EngineMisconfigured, EngineStalled, NotSupported
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
)
from drw.models.serving.settings import ClientSettings

TOKEN_SECONDS = 30.0
"""Timeout of a token request; Google's library retries for minutes."""
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class VertexEngine(ChatEngine):
    """Passes chats on unchanged."""

    Settings = ClientSettings

    def __init__(self, settings: ClientSettings) -> None:
        self._client = OpenAIClient(settings, reuse=True)
        self._credentials: Any = None
        self._refreshing = asyncio.Lock()

    async def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the upstream's chunks."""
        if endpoint != "chat/completions":
            raise NotSupported("prompt", "this model supports chats only, at /v1/chat/completions")
        request = {**body, "model": target.upstream_model, "stream": True, "stream_options": {"include_usage": True}}
        headers = await self._authorization(target, limits)
        stream = self._client.stream(target, endpoint, request, headers, limits, hide_cache_counts=True)
        events = sum_choices(stream, body.get("n") or 1)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Return None: the endpoint cannot count tokens."""
        return None

    async def check(self, target: EngineTarget) -> None:
        """Check that a token is available and that the endpoint responds, with any status."""
        await self._client.probe(target, "models", await self._token())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _authorization(self, target: EngineTarget, limits: EngineLimits) -> dict[str, str]:
        deadline = asyncio.get_running_loop().time() + TOKEN_SECONDS
        try:
            async with asyncio.timeout_at(min(deadline, limits.first_token, limits.deadline)):
                return await self._token()
        except TimeoutError as error:
            raise EngineStalled(f"no token of the Google account for {target.model!r} arrived in time") from error

    async def _token(self) -> dict[str, str]:
        async with self._refreshing:
            if self._credentials is None or not self._credentials.valid:
                self._credentials = await asyncio.to_thread(_refresh, self._credentials)
        return {"authorization": f"Bearer {self._credentials.token}"}


def _refresh(credentials: Any) -> Any:
    try:
        if credentials is None:
            credentials, _ = google.auth.default(scopes=SCOPES)
        credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        raise EngineMisconfigured(f"no Google account for this workload: {error}") from error
    return credentials
