"""OpenAI's request body of `POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, Tag, WithJsonSchema, model_validator

from drw.kernel.errors import InvalidRequest
from drw.models.serving.errors import NotSupported
from drw.models.serving.openai.messages import MAX_TOOLS, TEXT_OR_LIST, Schema, StrictObject
from drw.models.serving.openai.requests import (
    MAX_MESSAGES,
    MAX_TOKENS,
    ModelId,
    StreamOptions,
    check_schemas,
    check_supported,
)
from drw.models.serving.responses_api.items import InputItem
from drw.models.serving.responses_api.tools import Choice, FileSearchTool, FunctionTool, NamedChoice, ResponseTool

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
RESULTS, LOGPROBS = "file_search_call.results", "message.output_text.logprobs"
NO_EFFECT: tuple[tuple[str, Any], ...] = (("background", False), ("truncation", "disabled"), ("context_management", []))
"""Unsupported parameters with values that have no effect, as some clients send them."""

InputItems = Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
Input = Annotated[Annotated[str, Tag("<text>")] | Annotated[InputItems, Tag("<list>")], TEXT_OR_LIST]


def _check_pairs(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > MAX_PAIRS:
        raise InvalidRequest(f"metadata has {len(value)} pairs; at most {MAX_PAIRS}", param="metadata")
    for name, text in value.items():
        if len(name) > MAX_KEY or not isinstance(text, str) or len(text) > MAX_VALUE:
            message = f"must be a string of at most {MAX_VALUE} characters, with a key of at most {MAX_KEY}"
            raise InvalidRequest(f"metadata.{name[:MAX_KEY]} {message}", param=f"metadata.{name[:MAX_KEY]}")
    return value


_PAIRS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string", "maxLength": MAX_VALUE}}
Pairs = Annotated[dict[str, Any], AfterValidator(_check_pairs), WithJsonSchema(_PAIRS | {"maxProperties": MAX_PAIRS})]


class Reasoning(StrictObject):
    """How much a model reasons."""

    effort: Annotated[str, StringConstraints(max_length=16)] | None = None


class TextFormat(StrictObject):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, StringConstraints(max_length=64)] | None = None
    description: str | None = None
    # `schema` is a method of pydantic; the JSON field has that name.
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("schema goes with the type 'json_schema', and only with it")
        return self


class TextConfig(StrictObject):
    """Format and verbosity of the answer."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class CreateResponse(StrictObject):
    """`POST /v1/responses`."""

    ALTERNATIVES: ClassVar[Mapping[str, str]] = {
        "access_programs": "leave it out",
        "background": "stream the response, or wait for it",
        "background_options": "stream the response, or wait for it",
        "context_management": "send the items that the model needs",
        "conversation": "continue a response with previous_response_id",
        "image": "models of this platform answer in text",
        "moderation": "leave it out",
        "prompt": "send instructions and input",
        "prompt_cache_options": "each engine reuses the prompts of a tenant by itself",
        "prompt_cache_retention": "each engine reuses the prompts of a tenant by itself",
        "truncation": "a prompt that is too long is a 400: send fewer items",
    }
    """Unsupported parameters of OpenAI, with alternatives."""

    model: ModelId
    input: Input
    instructions: str | None = None
    previous_response_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    store: bool | None = None
    metadata: Pairs | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(None, ge=1, le=MAX_TOKENS)
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    include: (
        Annotated[
            list[Literal["file_search_call.results", "message.output_text.logprobs"]],
            Field(max_length=8, fail_fast=True),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)
    user: str | None = Field(None, max_length=512)
    # Declared so that the error names the alternative.
    access_programs: Any = None
    background: Any = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    moderation: Any = None
    prompt: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    truncation: Any = None

    @model_validator(mode="after")
    def _check_supported(self) -> Self:
        check_supported(self, self.ALTERNATIVES, NO_EFFECT)
        if self.stream_options and self.stream_options.include_usage is not None:
            raise NotSupported("stream_options.include_usage", "the last event has the usage")
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        choice = self.tool_choice
        if sum(isinstance(tool, FileSearchTool) for tool in self.tools or ()) > 1:
            raise InvalidRequest("tools has more than one file_search: name all vector stores in one", param="tools")
        if choice not in (None, "none", "auto") and not self.tools:
            raise InvalidRequest("tool_choice needs tools", param="tool_choice")
        if isinstance(choice, NamedChoice):
            if choice.type == "file_search" and self.file_search is None:
                raise InvalidRequest("tool_choice needs a tool of the type file_search", param="tool_choice")
            if choice.name and choice.name not in {tool.name for tool in self.functions}:
                raise InvalidRequest(f"tool_choice names {choice.name!r}, which is not in tools", param="tool_choice")
            if not any(choice.allows(tool) for tool in self.tools or ()):
                raise InvalidRequest("tool_choice allows none of the tools", param="tool_choice")
        schemas = {
            f"tools[{i}].parameters": (tool.parameters, bool(tool.strict))
            for i, tool in enumerate(self.tools or ())
            if isinstance(tool, FunctionTool) and tool.parameters
        }
        if self.text and self.text.format and self.text.format.schema_:
            schemas["text.format.schema"] = self.text.format.schema_, bool(self.text.format.strict)
        check_schemas(schemas)
        return self

    @property
    def functions(self) -> list[FunctionTool]:
        """The functions that the model can call."""
        return [tool for tool in self._allowed_tools() if isinstance(tool, FunctionTool)]

    @property
    def file_search(self) -> FileSearchTool | None:
        """The search that precedes the answer; None: there is none."""
        return next((tool for tool in self._allowed_tools() if isinstance(tool, FileSearchTool)), None)

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer has the log probabilities of its tokens."""
        return LOGPROBS in (self.include or ()) or self.top_logprobs is not None

    @property
    def session(self) -> str:
        """The session of the request for affinity."""
        return self.prompt_cache_key or self.user or ""

    def _allowed_tools(self) -> list[FunctionTool | FileSearchTool]:
        choice = self.tool_choice
        if choice == "none":
            return []
        return [t for t in self.tools or () if not isinstance(choice, NamedChoice) or choice.allows(t)]


NOTES = {
    "service_tier": "`auto` and `default`: there is one tier",
    "safety_identifier": "accepted, and not passed on",
    "prompt_cache_key": "binds a session to a replica, as `X-Session-Id` does",
    "user": "binds a session to a replica, as `X-Session-Id` does",
    "reasoning": "`effort` is a hint: a model that does not reason answers all the same",
    "max_tool_calls": "a response makes at most one call of a built-in tool",
    "tools": "`function` and `file_search`",
    "include": f"`{RESULTS}` and `{LOGPROBS}`",
    "store": "default: the setting `services.serving.responses.store_by_default`",
}
"""Notes on supported parameters."""
