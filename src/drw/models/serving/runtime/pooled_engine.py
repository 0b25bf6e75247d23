"""Chat engine of models that the runtime loads: each request keeps its model loaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from drw.models.serving.ports import (
    UNLIMITED,
    Body,
    ChatEngine,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
    ModelSpec,
    Tokens,
)
from drw.models.serving.runtime.pool import ModelPool


class PooledEngine(ChatEngine):
    """Calls the engine at the address of a loaded model."""

    def __init__(self, engine: ChatEngine, pool: ModelPool, spec: ModelSpec) -> None:
        self._engine = engine
        self._pool = pool
        self.spec = spec

    async def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Load the model if it is not loaded, and yield the answer; see `ChatEngine.stream`."""
        async with (
            self._pool.lease(self.spec) as model,
            aclosing(self._engine.stream(_at(target, model.address), endpoint, body, limits, prompts)) as events,
        ):
            async for event in events:
                yield event

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Load the model if it is not loaded, and count the prompt; see `ChatEngine.count_prompt`."""
        async with self._pool.lease(self.spec) as model:
            return await self._engine.count_prompt(_at(target, model.address), endpoint, body)

    async def tokenize(
        self, target: EngineTarget, endpoint: Endpoint, body: Body, *, special: bool, strings: bool
    ) -> Tokens:
        """Load the model if it is not loaded, and return the tokens; see `ChatEngine.tokenize`."""
        async with self._pool.lease(self.spec) as model:
            at = _at(target, model.address)
            return await self._engine.tokenize(at, endpoint, body, special=special, strings=strings)

    async def detokenize(self, target: EngineTarget, tokens: Sequence[int]) -> str:
        """Load the model if it is not loaded, and return the text; see `ChatEngine.detokenize`."""
        async with self._pool.lease(self.spec) as model:
            return await self._engine.detokenize(_at(target, model.address), tokens)

    async def check(self, target: EngineTarget) -> None:
        """Check the engine if the model is loaded; a model that is not loaded is loaded by its next request."""
        if model := self._pool.model(self.spec):
            await self._engine.check(_at(target, model.address))

    async def close(self) -> None:
        """Do nothing: other models use the engine too."""


def _at(target: EngineTarget, address: str) -> EngineTarget:
    return replace(target, base_url=address)
