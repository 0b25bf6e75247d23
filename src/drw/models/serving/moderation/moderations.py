"""`POST /v1/moderations`: an upstream's moderation model, or the local model `policy`."""

from __future__ import annotations

import secrets
from random import Random
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel
from drw.billing.usage import UsageUpdate
from drw.kernel.errors import InvalidRequest
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.messages import StrictObject
from drw.models.serving.openai.requests import MAX_INPUTS, ModelId
from drw.models.serving.ports import EngineTarget, Moderator
from drw.models.serving.routing.model_directory import MODERATION, ModelDirectory
from drw.models.serving.upstreams import ENGINE_FAILURES, UpstreamCalls, estimated_tokens

POLICY = "policy"
"""The id of the local model."""
MAX_CONCURRENT = 4
"""Requests of the local model at once: each takes a thread."""
LOCAL_POLICY = ResolvedModel(
    model=Model(id=POLICY, engine=POLICY), upstream_model=POLICY, max_concurrent=MAX_CONCURRENT
)
MAX_TEXT = 1 << 20
"""Characters of one text."""
MAX_PARTS = 64


class TextInput(StrictObject):
    """A text as a content part."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class ImageAddress(StrictObject):
    """The address of an image."""

    url: str


class ImageInput(StrictObject):
    """An image as a content part."""

    type: Literal["image_url"]
    image_url: ImageAddress


def _check_input(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if not items or len(items) > MAX_INPUTS:
        raise InvalidRequest(f"input has {len(items)} texts; give 1 to {MAX_INPUTS}", param="input")
    if all(isinstance(item, str) for item in items):
        if any(len(item) > MAX_TEXT for item in items):
            raise InvalidRequest(f"a text of input has at most {MAX_TEXT:,} characters", param="input")
        return value
    if not isinstance(value, list) or len(items) > MAX_PARTS:
        raise InvalidRequest(
            f"input must be a text, a list of texts, or a list of at most {MAX_PARTS} content parts", param="input"
        )
    return [_part(item) for item in items]


PARTS: dict[str, type[StrictObject]] = {"text": TextInput, "image_url": ImageInput}


def _part(item: Any) -> dict[str, Any]:
    part = PARTS.get(str(item.get("type"))) if isinstance(item, dict) else None
    if part is None:
        raise InvalidRequest("each part of input has the type text or image_url", param="input")
    try:
        return part.model_validate(item).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InvalidRequest(f"input has an invalid part of the type {item['type']!r}", param="input") from error


_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": ["string", "object"]}}]
}


class Moderation(StrictObject):
    """`POST /v1/moderations`."""

    input: Annotated[Any, AfterValidator(_check_input), WithJsonSchema(_SCHEMA)]
    model: ModelId | None = None
    """Default: `policy`."""

    def inputs(self) -> list[Any]:
        """Return the inputs: texts, or one list of content parts."""
        if isinstance(self.input, str):
            return [self.input]
        return list(self.input) if isinstance(self.input[0], str) else [self.input]

    def texts(self) -> list[str]:
        """Return all texts."""
        return [
            text
            for one in self.inputs()
            for text in ([one] if isinstance(one, str) else [p.get("text", "") for p in one])
        ]


class Moderations:
    """Serves `POST /v1/moderations`."""

    def __init__(
        self,
        models: ModelDirectory,
        metering: BudgetGate,
        calls: UpstreamCalls,
        upstream: Moderator,
        policy: Moderator | None,
        random: Random,
    ) -> None:
        self._models = models
        self._metering = metering
        self._calls = calls
        self._upstream = upstream
        self._policy = policy
        self._random = random

    async def check_model(self, name: str) -> None:
        """Check that a name is the local policy or a moderation model; raises as `ModelDirectory.of_kind` does."""
        if name != POLICY or self._policy is None:
            await self._models.of_kind(name, MODERATION)

    async def respond(self, request: Moderation, record: CallRecord) -> bytes:
        """Return the body of the response; the record is closed."""
        name = request.model or POLICY
        if name == POLICY and self._policy is not None:
            record.models.add(POLICY)  # so that a kill ends the call
            self._models.check_not_killed(POLICY)
            return await self._respond(request, LOCAL_POLICY, self._policy, record)
        if request.model is None:
            raise InvalidRequest("name a moderation model in model: no local policy is configured", param="model")
        record.models.add(name)
        plan = await self._models.of_kind(name, MODERATION)
        *others, last = plan.order(self._random)
        for resolved in others:
            try:
                return await self._respond(request, resolved, self._upstream, record)
            except ENGINE_FAILURES as error:
                record.add_attempt({"model": resolved.model.id, "outcome": error.reason})
        return await self._respond(request, last, self._upstream, record)

    async def _respond(
        self, request: Moderation, resolved: ResolvedModel, moderator: Moderator, record: CallRecord
    ) -> bytes:
        model, inputs = resolved.model, request.inputs()
        record.set_model(model.id, model.engine, resolved.upstream_model, requested=request.model or POLICY)

        async def moderate(target: EngineTarget) -> list[dict[str, Any]]:
            return await moderator.moderate(target, inputs)

        async with self._metering.embedding(model.id, request.texts(), record, "moderation") as call:
            results = await self._calls.run(resolved, moderate)
            tokens = estimated_tokens(request.texts())  # the API reports no usage
            await call.progress(UsageUpdate(input_tokens=tokens, output_tokens=0, final=True))
            answer = {"id": f"modr-{secrets.token_hex(12)}", "model": request.model or POLICY, "results": results}
            body = orjson.dumps(answer)
            record.set_answer(body, {"prompt_tokens": tokens})
            record.response_body = body
        return body
