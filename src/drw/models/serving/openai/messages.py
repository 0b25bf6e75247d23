"""Parts of OpenAI's requests: messages, content parts, tools and response formats."""

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
"""Maximum bytes of all schemas of one request."""

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def _check_size(schema: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(check_serializable(schema))) > MAX_SCHEMA_BYTES:
        raise ValueError(f"a JSON schema has at most {MAX_SCHEMA_BYTES} bytes")
    return schema


def check_serializable(value: dict[str, Any]) -> dict[str, Any]:
    """Reject values that cannot be serialised, such as integers beyond 64 bits."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"it has a value that engines do not support: {error}") from error
    return value


Schema = Annotated[dict[str, Any], AfterValidator(_check_size)]
AnyObject = Annotated[dict[str, Any], AfterValidator(check_serializable)]


NO_EXTRA_FIELDS: dict[str, Any] = {"additionalProperties": {"type": "null"}}
UNKNOWN_FIELD = "unknown_field"
"""The type of the error for the first unknown field. pydantic itself would collect one error per field."""


class StrictObject(BaseModel):
    """Base class of all parts of a request: strict types; unknown fields must be null, as some SDKs send them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, json_schema_extra=NO_EXTRA_FIELDS)

    @model_validator(mode="after")
    def _check_unknown(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                raise PydanticCustomError(UNKNOWN_FIELD, "{name} is not supported", {"name": name})
        return self


Ignored = Annotated[Any, Field(exclude=True)]
"""A field that is accepted and ignored: hints for other providers' caches, and fields that SDKs add to answers."""


class TextPart(StrictObject):
    """A text part."""

    type: Literal["text"]
    text: str
    cache_control: Ignored = None
    prompt_cache_breakpoint: Ignored = None


class ImageUrl(StrictObject):
    """The URL of an image, or a data URL."""

    url: str
    detail: str | None = None


class ImagePart(StrictObject):
    """An image part, for multimodal models."""

    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: Ignored = None
    prompt_cache_breakpoint: Ignored = None


class RefusalPart(StrictObject):
    """A refusal of the model."""

    type: Literal["refusal"]
    refusal: str


def _json_type_tag(value: Any) -> str | None:
    """Return the tag of a value in a union of JSON types; error paths omit these tags."""
    return next((tag for cls, tag in JSON_TYPE_TAGS if isinstance(value, cls)), None)


JSON_TYPE_TAGS = ((str, "<text>"), (list, "<list>"), (dict | BaseModel, "<object>"))
TEXT_OR_LIST = Discriminator(_json_type_tag, custom_error_type="form", custom_error_message="give a string or a list")
TEXT_OR_OBJECT = Discriminator(
    _json_type_tag, custom_error_type="form", custom_error_message="give a string or an object"
)

ContentPart = Annotated[TextPart | ImagePart | RefusalPart, Field(discriminator="type")]
ContentParts = Annotated[list[ContentPart], Field(min_length=1, fail_fast=True)]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[ContentParts, Tag("<list>")], TEXT_OR_LIST]


class FunctionCall(StrictObject):
    """The function of an earlier tool call, with the name that the model used."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str
    parsed_arguments: Ignored = None


class ToolCall(StrictObject):
    """An earlier tool call in an assistant message."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    extra_content: AnyObject | None = None
    """Data that the upstream needs with the call, such as Gemini's thought signatures."""
    index: Ignored = None
    provider_specific_fields: Ignored = None

    @model_validator(mode="after")
    def _set_type(self) -> Self:
        self.model_fields_set.add("type")  # some clients omit it, but engines need it
        return self


REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Fields with the reasoning of an answer. They are sent back only to models that need them."""


def without_reasoning(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request without the reasoning of earlier answers."""
    messages = body.get("messages", ())
    if not any(name in message for message in messages for name in REASONING):
        return body
    stripped = [{name: value for name, value in message.items() if name not in REASONING} for message in messages]
    return body | {"messages": stripped}


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
    annotations: Ignored = None
    parsed: Ignored = None
    cache_control: Ignored = None
    thinking_blocks: Ignored = None
    provider_specific_fields: Ignored = None

    @model_validator(mode="after")
    def _check_content(self) -> Message:
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
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function
    cache_control: Ignored = None


class NamedFunction(StrictObject):
    """The name of a required function."""

    name: FunctionName


class NamedTool(StrictObject):
    """A required function."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(StrictObject):
    """The JSON schema of the answer."""

    name: str = ""
    description: str | None = None
    # `schema` is a method of pydantic; the JSON field has that name.
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictObject):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type 'json_schema', and only with it")
        return self
