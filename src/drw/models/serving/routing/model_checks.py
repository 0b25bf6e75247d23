"""Health checks of chat models for the status, cached for a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from drw.api.models.v1.discovery_pb2 import ListModelsRequest, Model
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import DeadlineExceeded, DrwError, Forbidden, Unavailable
from drw.kernel.runtime.clock import Clock
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.model_directory import ModelDirectory

ALIAS = "alias"
"""The engine of an alias in discovery's list of models."""
CACHE_SECONDS = 5.0
"""Lifetime of results: every caller can request the status, which must not cause load on upstreams."""


class ModelChecks:
    """Checks the upstreams of models and caches the results."""

    def __init__(self, models: ModelDirectory, clock: Clock) -> None:
        self._models = models
        self._clock = clock
        self._expires_at = 0.0
        self._names: tuple[str, ...] = ()
        self._errors: list[str] = []
        self._lock = asyncio.Lock()
        self._listed: tuple[str, ...] | None = None

    async def chat_models(self, discovery: DiscoveryClient) -> tuple[str, ...]:
        """Return the ids of the chat models, and those of the last answer while discovery does not answer.

        Raises:
            Unavailable, DeadlineExceeded: discovery has not answered yet.
        """
        try:
            listed = await discovery.list_models(ListModelsRequest(), timeout=CACHE_SECONDS)
        except (Unavailable, DeadlineExceeded):
            if self._listed is None:
                raise
        else:
            self._listed = tuple(model.id for model in listed.models if is_chat_model(model))
        return self._listed

    async def errors(self, names: Sequence[str]) -> list[str]:
        """Return one error message for each model without a healthy replica."""
        async with self._lock:
            if self._clock.time() >= self._expires_at or self._names != tuple(names):
                errors = await asyncio.gather(*map(self._error, names))
                self._errors = [error for error in errors if error]
                self._names, self._expires_at = tuple(names), self._clock.time() + CACHE_SECONDS
            return self._errors

    async def _error(self, name: str) -> str:
        try:
            await _check_replicas((await self._models.plan(name)).targets[0][0])
        except Forbidden:  # stopped by a kill switch: not an error
            return ""
        except DrwError as error:
            return error.message
        return ""


def is_chat_model(model: Model) -> bool:
    """Return whether an entry of discovery is a chat model, not an alias."""
    return model.kind == Model.CHAT and model.engine != ALIAS


async def _check_replicas(model: ChatModel) -> None:
    """Raise the first error if no replica of a model is healthy."""
    results = await asyncio.gather(*(model.engine.check(r.target) for r in model.replicas), return_exceptions=True)
    errors = [error for error in results if error is not None]
    if len(errors) == len(results):
        raise errors[0]
