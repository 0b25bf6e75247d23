"""What OpenAI's requests are made of: messages, tools, forms of answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 32_768
MAX_SCHEMAS_BYTES = 131_072
"""Of all schemas in one request."""

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def _small(schema: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(passable(schema))) > MAX_SCHEMA_BYTES:
        raise ValueError(f"a JSON schema has at most {MAX_SCHEMA_BYTES} bytes")
    return schema


def passable(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what can be read and not written again: whole numbers beyond 64 bits."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"it has a value that no engine takes: {error}") from error
    return value


Schema = Annotated[dict[str, Any], AfterValidator(_small)]
AnyObject = Annotated[dict[str, Any], AfterValidator(passable)]


NOTHING_MORE: dict[str, Any] = {"additionalProperties": {"type": "null"}}
UNKNOWN_FIELD = "unknown_field"
"""The type of the error for the first unknown field of an object. pydantic would collect one for each of them."""


class StrictObject(BaseModel):
    """What every part of a request has in common: exact types; unknown fields are null, as SDKs write them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, json_schema_extra=NOTHING_MORE)

    @model_validator(mode="after")
    def _check_unknown(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                raise PydanticCustomError(UNKNOWN_FIELD, "{name} is not supported", {"name": name})
        return self


Dropped = Annotated[Any, Field(exclude=True)]
"""What SDKs send back and no answer depends on: hints to other firms' caches, and what was read out of an answer."""


class TextPart(StrictObject):
    """A piece of text."""

    type: Literal["text"]
    text: str
    cache_control: Dropped = None
    prompt_cache_breakpoint: Dropped = None


class ImageUrl(StrictObject):
    """Where a picture is, or the picture itself as a data URL."""

    url: str
    detail: str | None = None


class ImagePart(StrictObject):
    """A picture, for models that see."""

    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: Dropped = None
    prompt_cache_breakpoint: Dropped = None


class RefusalPart(StrictObject):
    """What a model said in place of an answer."""

    type: Literal["refusal"]
    refusal: str


def _form(value: Any) -> str | None:
    """Return the tag of a value in a union of JSON's types; paths in errors leave these tags out."""
    return next((tag for cls, tag in FORMS if isinstance(value, cls)), None)


FORMS = ((str, "<text>"), (list, "<list>"), (dict | BaseModel, "<object>"))
TEXT_OR_LIST = Discriminator(_form, custom_error_type="form", custom_error_message="give a string or a list")
TEXT_OR_OBJECT = Discriminator(_form, custom_error_type="form", custom_error_message="give a string or an object")

ContentPart = Annotated[TextPart | ImagePart | RefusalPart, Field(discriminator="type")]
ContentParts = Annotated[list[ContentPart], Field(min_length=1, fail_fast=True)]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[ContentParts, Tag("<list>")], TEXT_OR_LIST]


class FunctionCall(StrictObject):
    """The function of an earlier tool call, under whatever name a model called it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str
    parsed_arguments: Dropped = None


class ToolCall(StrictObject):
    """An earlier tool call, given back with the answer that made it."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    extra_content: AnyObject | None = None
    """What an upstream wants back with the call, as Gemini its thought signatures."""
    index: Dropped = None
    provider_specific_fields: Dropped = None

    @model_validator(mode="after")
    def _has_its_type(self) -> Self:
        self.model_fields_set.add("type")  # some clients leave it out, and no engine may miss it
        return self


REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""An answer's reasoning, by the names that upstreams have for it: sent back to those models that want it."""


def without_reasoning(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request without the reasoning of earlier answers."""
    messages = body.get("messages", ())
    if not any(name in message for message in messages for name in REASONING):
        return body
    left = [{name: value for name, value in message.items() if name not in REASONING} for message in messages]
    return body | {"messages": left}


class Message(StrictObject):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Annotated[list[AnyObject], Field(fail_fast=True)] | None = None
    extra_content: AnyObject | None = None
    annotations: Dropped = None
    parsed: Dropped = None
    cache_control: Dropped = None
    thinking_blocks: Dropped = None
    provider_specific_fields: Dropped = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            raise ValueError(f"a message of the role {self.role!r} must have content")
        return self


class Function(StrictObject):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(StrictObject):
    """A tool: functions are the only kind."""

    type: Literal["function"]
    function: Function
    cache_control: Dropped = None


class NamedFunction(StrictObject):
    """The name of a function that must be called."""

    name: FunctionName


class NamedTool(StrictObject):
    """A function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(StrictObject):
    """A JSON schema that the answer must fit."""

    name: str = ""
    description: str | None = None
    # `schema` is a method of pydantic's; the wire has the plain name.
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictObject):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type 'json_schema', and only with it")
        return self
