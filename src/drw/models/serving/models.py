"""Where each model is served, as discovery says, remembered for a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel, ResolveModelRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.call import caller_or_none
from drw.kernel.errors import DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from drw.kernel.kills import KillList
from drw.models.serving.line import Line
from drw.models.serving.ports import ChatEngine, Target

CHAT, EMBEDDING = Model.CHAT, Model.EMBEDDING
ASK_SECONDS = 5.0
KIND_NAMES = {CHAT: "a chat model", EMBEDDING: "an embedding model"}


@dataclass(frozen=True, slots=True)
class ChatModel:
    """One chat model, with all that a request needs."""

    id: str
    target: Target
    engine: ChatEngine
    engine_name: str
    line: Line
    context_length: int
    max_prompt_tokens: int


class Models:
    """Asks discovery, and keeps each answer for `seconds`; the last one also while discovery does not answer."""

    def __init__(
        self,
        discovery: DiscoveryClient,
        engine: Callable[[str], ChatEngine],
        line: Callable[[str, int], Line],
        seconds: float,
        kills: KillList,
    ) -> None:
        self._discovery = discovery
        self._engine = engine
        self._line = line
        self._seconds = seconds
        self._kills = kills
        self._known: dict[str, tuple[float, ResolvedModel]] = {}
        self._chat: dict[str, tuple[ResolvedModel, ChatModel]] = {}

    async def chat(self, name: str) -> ChatModel:
        """Return a chat model by its id; an empty one means the default.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: it is no chat model.
            Killed: a kill switch stops it.
        """
        resolved = await self._resolved(name, CHAT)
        found = self._chat.get(resolved.model.id)
        if found is None or found[0] != resolved:
            found = resolved, self._made(resolved)
            self._chat[resolved.model.id] = found
        return found[1]

    async def embedding(self, name: str) -> Model:
        """Return an embedding model by its id; raises as `chat` does."""
        return (await self._resolved(name, EMBEDDING)).model

    async def _resolved(self, name: str, kind: Model.Kind) -> ResolvedModel:
        now = time.monotonic()
        when, resolved = self._known.get(name, (0.0, None))
        if resolved is None or now - when > self._seconds:
            resolved = await self._ask(name, resolved)
            self._known[name] = now, resolved
        self._kills.check(caller_or_none(), (name, resolved.model.id))
        if resolved.model.kind != kind:
            message = f"{resolved.model.id!r} is {KIND_NAMES[resolved.model.kind]}; this needs {KIND_NAMES[kind]}"
            raise InvalidRequest(message, param="model")
        return resolved

    async def _ask(self, name: str, last: ResolvedModel | None) -> ResolvedModel:
        try:
            return await self._discovery.resolve_model(ResolveModelRequest(id=name), timeout=ASK_SECONDS)
        except NotFound:
            self._known.pop(name, None)
            raise
        except (Unavailable, DeadlineExceeded):
            if last is None:
                raise
            return last

    def _made(self, resolved: ResolvedModel) -> ChatModel:
        model = resolved.model
        return ChatModel(
            id=model.id,
            target=Target(model.id, resolved.base_url, resolved.upstream_model, resolved.api_key_variable),
            engine=self._engine(model.engine),
            engine_name=model.engine,
            line=self._line(model.id, resolved.max_concurrent),
            context_length=model.context_length,
            max_prompt_tokens=resolved.max_prompt_tokens,
        )
