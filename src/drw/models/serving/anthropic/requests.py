"""Anthropic's request bodies: `POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from drw.kernel.errors import InvalidRequest
from drw.models.serving.anthropic.content import (
    ClientTool,
    OutputConfig,
    RequestMetadata,
    System,
    Thinking,
    ToolChoice,
    Turn,
)
from drw.models.serving.openai.messages import MAX_TOOLS, Ignored, StrictObject
from drw.models.serving.openai.requests import (
    MAX_MESSAGES,
    MAX_TOKENS,
    ModelId,
    StopText,
    check_schemas,
    check_supported,
)

MAX_STOPS = 4
NO_EFFECT = (("speed", "standard"),)
"""Unsupported parameters with values that have no effect."""


class Prompt(StrictObject):
    """The parameters that determine the prompt."""

    ALTERNATIVES: ClassVar[Mapping[str, str]] = {
        "speed": "there is one speed: leave it out",
        "user_profile_id": "the API key names the caller: leave it out",
        "workspace_id": "the API key names the org and desk: leave it out",
    }
    """Unsupported parameters of Anthropic, with alternatives."""

    model: ModelId
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: System | None = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Ignored = None
    # Declared so that the error names the alternative.
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None

    @model_validator(mode="after")
    def _check_supported(self) -> Self:
        check_supported(self, self.ALTERNATIVES, NO_EFFECT)
        return self

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.messages[-1].role == "assistant":
            message = (
                "the last message is of the assistant, and models here cannot continue it: end with a user message"
            )
            raise InvalidRequest(message, param="messages")
        if self.tool_choice and self.tool_choice.type in ("any", "tool") and not self.tools:
            raise InvalidRequest(f"tool_choice of the type {self.tool_choice.type!r} needs tools", param="tool_choice")
        schemas = {f"tools[{i}].input_schema": (t.input_schema, bool(t.strict)) for i, t in enumerate(self.tools or ())}
        if self.output_config and self.output_config.format:
            schemas["output_config.format.schema"] = self.output_config.format.schema_, True
        check_schemas(schemas)
        return self


class CountTokens(Prompt):
    """`POST /v1/messages/count_tokens`."""


class CreateMessage(Prompt):
    """`POST /v1/messages`."""

    ALTERNATIVES = {
        **Prompt.ALTERNATIVES,
        "container": "there are no server tools",
        "diagnostics": "`drw audit list` has the record of each call",
        "inference_geo": "the operator decides where models run: leave it out",
    }

    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKENS)
    metadata: RequestMetadata | None = None
    service_tier: Annotated[str, Field(pattern="^(auto|standard_only)$")] | None = None
    stream: bool | None = None
    # Declared so that the error names the alternative.
    container: Any = None
    diagnostics: Any = None
    inference_geo: Any = None

    @property
    def session(self) -> str:
        """The session of the request for affinity."""
        return (self.metadata and self.metadata.user_id) or ""

    @property
    def shows_thinking(self) -> bool:
        """Whether the answer has the reasoning of the model."""
        return self.thinking is not None and self.thinking.type != "disabled"


HINTS = {
    "cache_control": "a hint without effect on the answer: each engine reuses the prompts of a tenant by itself",
    "service_tier": "`auto` and `standard_only`: there is one tier",
    "metadata": "`user_id` binds a session to a replica, as `X-Session-Id` does; it is not passed on",
    "thinking": "shows the reasoning of a model that reasons; `budget_tokens` is a hint",
    "output_config": "`format` is enforced; `effort` is a hint: a model that does not reason answers all the same",
    "top_k": "for models with this parameter: the bundled engine, and models whose `parameters` name it",
}
"""Notes on supported parameters."""
