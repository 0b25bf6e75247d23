"""What OpenAI's requests are made of: messages, tools, forms of answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

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


class Part(BaseModel):
    """What every part of a request has in common: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(Part):
    """A picture, for models that see."""

    type: Literal["image_url"]
    image_url: dict[str, str]


Content = str | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1)]


class CalledFunction(Part):
    """The function of an earlier tool call."""

    name: FunctionName
    arguments: str


class ToolCall(Part):
    """An earlier tool call, given back with the answer that made it."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Part):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            raise ValueError(f"a message of the role {self.role!r} must have content")
        return self


class Function(Part):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Part):
    """A tool: functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(Part):
    """The name of a function that must be called."""

    name: FunctionName


class NamedTool(Part):
    """A function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Part):
    """A JSON schema that the answer must fit."""

    name: str = ""
    description: str | None = None
    # `schema` is a method of pydantic's; the wire has the plain name.
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type 'json_schema', and only with it")
        return self
