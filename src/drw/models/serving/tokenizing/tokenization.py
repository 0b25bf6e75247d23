"""`POST /v1/tokenize` and `POST /v1/detokenize`, in the format of vLLM, with the tokenizer of the model's engine."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import orjson
from pydantic import Field, model_validator

from drw.kernel.errors import InvalidRequest
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.messages import Message, StrictObject
from drw.models.serving.openai.requests import MAX_MESSAGES, MAX_TOKENS, ModelId
from drw.models.serving.ports import Body, Endpoint, EngineTarget, Tokens
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, check_prompt_bytes, prompt_bytes
from drw.models.serving.routing.load_balancing import Affinity
from drw.models.serving.routing.model_directory import ModelDirectory

MAX_DETOKENIZED = 1 << 20
"""Tokens in one request of `/v1/detokenize`."""
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


class Tokenize(StrictObject):
    """`POST /v1/tokenize`."""

    model: ModelId
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    add_special_tokens: bool | None = None
    """Default: true for a prompt; false for messages, whose template contains the special tokens."""
    add_generation_prompt: Literal[True] | None = None
    """Messages are tokenized as for a chat completion, with the start of the answer."""
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check_input(self) -> Tokenize:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("give either prompt or messages", param="prompt")
        if self.prompt is not None and self.add_generation_prompt is not None:
            raise InvalidRequest("add_generation_prompt is for messages", param="add_generation_prompt")
        return self

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint for which the input is tokenized."""
        return "chat/completions" if self.messages is not None else "completions"

    def body(self) -> Body:
        """Return the input as the body of a request."""
        included = {"messages"} if self.messages is not None else {"prompt"}
        return self.model_dump(include=included, exclude_unset=True, exclude_none=True, by_alias=True)


class Detokenize(StrictObject):
    """`POST /v1/detokenize`."""

    model: ModelId
    tokens: Annotated[list[TokenId], Field(min_length=1, max_length=MAX_DETOKENIZED, fail_fast=True)]


class TokenizedPrompt(NamedTuple):
    """The tokens of a prompt, and the context length of its model; 0: unknown."""

    tokens: Tokens
    context_length: int


class Tokenization:
    """Tokenizes with the engine of a model; an alias means its first model."""

    def __init__(self, models: ModelDirectory) -> None:
        self._models = models

    async def tokens(
        self, model: str, endpoint: Endpoint, body: Body, *, special: bool, strings: bool = False
    ) -> TokenizedPrompt:
        """Return the tokens of the prompt of a request; raises as `ChatEngine.tokenize` does."""
        chosen, target = await self._model(model)
        size = prompt_bytes(body)
        check_prompt_bytes(
            ModelRequest(endpoint, body, Affinity("", "", body), (chosen,), stream=False, prompt_bytes=size)
        )
        tokens = await chosen.engine.tokenize(target, endpoint, body, special=special, strings=strings)
        return TokenizedPrompt(tokens, chosen.context_length)

    async def tokenize(self, request: Tokenize, record: CallRecord) -> bytes:
        """Return the body of the response of `/v1/tokenize`, and write the record."""
        special = request.messages is None if request.add_special_tokens is None else request.add_special_tokens
        record.models.add(request.model)
        tokens, context_length = await self.tokens(
            request.model, request.endpoint, request.body(), special=special, strings=bool(request.return_token_strs)
        )
        body = {
            "count": len(tokens.ids),
            "max_model_len": context_length or None,
            "tokens": list(tokens.ids),
            "token_strs": None if tokens.strings is None else list(tokens.strings),
        }
        await record.close()
        return orjson.dumps(body)

    async def detokenize(self, request: Detokenize, record: CallRecord) -> bytes:
        """Return the body of the response of `/v1/detokenize`, and write the record."""
        record.models.add(request.model)
        chosen, target = await self._model(request.model)
        text = await chosen.engine.detokenize(target, request.tokens)
        await record.close()
        return orjson.dumps({"prompt": text})

    async def _model(self, name: str) -> tuple[ChatModel, EngineTarget]:
        chosen = (await self._models.plan(name)).models[0]
        replica = min(chosen.replicas, key=lambda replica: replica.outstanding)
        return chosen, replica.target
