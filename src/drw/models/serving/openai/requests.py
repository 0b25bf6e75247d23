"""OpenAI's request bodies: types, limits and rejected parameters.

Fields: OpenAI API reference, "Create chat completion", "Create completion", "Create embeddings".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.http.json_bodies import check_keys
from drw.models.serving.errors import NotSupported
from drw.models.serving.openai.messages import (
    MAX_SCHEMAS_BYTES,
    MAX_TOOLS,
    TEXT_OR_LIST,
    TEXT_OR_OBJECT,
    UNKNOWN_FIELD,
    AnyObject,
    Message,
    NamedTool,
    ResponseFormat,
    StrictObject,
    Tool,
    check_serializable,
)
from drw.models.serving.openai.schema_limits import SchemaError, check_schema
from drw.models.serving.ports import Body

MAX_MESSAGES = 2048
MAX_CHOICES = 8
MAX_INPUTS = 2048
MAX_COMPLETIONS = 128
"""Maximum choices of one completion, over all of its prompts."""
DEFAULT_COMPLETION_TOKENS = 16
MAX_TOKENS = 2**31 - 1
MAX_EXTRA_BYTES = 32_768
MAX_BIASES, MAX_BIAS = 4096, 100
NO_EFFECT = (("best_of", 1), ("echo", False), ("suffix", ""))
"""Unsupported parameters with values that have no effect, as some clients send them."""

Schemas = dict[str, tuple[dict[str, Any], bool]]

ModelId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
StopTexts = Annotated[list[StopText], Field(min_length=1, max_length=4, fail_fast=True)]
Stop = Annotated[Annotated[StopText, Tag("<text>")] | Annotated[StopTexts, Tag("<list>")], TEXT_OR_LIST]
ChoiceName = Literal["none", "auto", "required"]
ToolChoice = Annotated[Annotated[ChoiceName, Tag("<text>")] | Annotated[NamedTool, Tag("<object>")], TEXT_OR_OBJECT]


def prompts_of(prompt: Any) -> list[Any]:
    """Return the list of prompts; each is a text or a list of token ids."""
    return prompt if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)) else [prompt]


def _check_prompts(value: Any, info: ValidationInfo) -> Any:
    name, prompts = str(info.field_name), prompts_of(value)
    if len(prompts) > MAX_INPUTS:
        raise InvalidRequest(f"{name} has {len(prompts)} texts; give 1 to {MAX_INPUTS}", param=name)
    kinds = set(map(type, prompts))
    if kinds not in ({str}, {list}):
        message = f"{name} must be a text, a list of texts, a list of token ids, or a list of such lists"
        raise InvalidRequest(message, param=name)
    for number, ids in enumerate(prompts if kinds == {list} else ()):
        path = name if ids is value else f"{name}[{number}]"
        if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > MAX_TOKENS:
            raise InvalidRequest(f"{path} must be a list of one or more token ids, from 0 on", param=path)
    return value


_IDS: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_LISTS: list[dict[str, Any]] = [{"type": "array", "minItems": 1, "items": one} for one in ({"type": "string"}, _IDS)]
Prompts = Annotated[Any, AfterValidator(_check_prompts), WithJsonSchema({"anyOf": [{"type": "string"}, _IDS, *_LISTS]})]
"""One or more texts or lists of token ids of the model's tokenizer."""


def _check_biases(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > MAX_BIASES:
        raise InvalidRequest(f"logit_bias has {len(value)} tokens; at most {MAX_BIASES}", param="logit_bias")
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and int(token[:10]) <= MAX_TOKENS and len(token) <= 10):
            raise InvalidRequest(f"logit_bias: {token[:64]!r} is not the id of a token", param="logit_bias")
        if type(bias) not in (int, float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            message = f"logit_bias.{token} must be a number from {-MAX_BIAS} to {MAX_BIAS}"
            raise InvalidRequest(message, param=f"logit_bias.{token}")
    return value


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    for name, text in value.items():
        if not isinstance(text, str):
            raise InvalidRequest(f"metadata.{name[:64]}: Input should be a valid string", param=f"metadata.{name[:64]}")
    return value


_BIAS: dict[str, Any] = {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}
# Validated by hand: pydantic would collect an unbounded number of errors, one for each invalid value.
Biases = Annotated[
    dict[str, Any], AfterValidator(_check_biases), WithJsonSchema({"type": "object", "additionalProperties": _BIAS})
]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_check_metadata),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]


class StreamOptions(StrictObject):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def check_supported(
    request: StrictObject, alternatives: Mapping[str, str], no_effect: Sequence[tuple[str, Any]]
) -> None:
    """Raise `NotSupported` for the first unsupported parameter with a value that has an effect."""
    for name, instead in alternatives.items():
        if (value := getattr(request, name)) is not None and (name, value) not in no_effect:
            raise NotSupported(name, instead)


class Sampling(StrictObject):
    """Parameters of both chats and completions. Parameters that are not OpenAI's are checked against the model."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})
    ALTERNATIVES: ClassVar[Mapping[str, str]] = {}
    """Unsupported parameters of OpenAI, with alternatives."""

    model: ModelId
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Stop | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Biases | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=512)

    @property
    def choices(self) -> int:
        """The number of choices."""
        return self.n or 1

    @property
    def extra_parameters(self) -> dict[str, Any]:
        """Parameters that are not OpenAI's."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}

    @model_validator(mode="after")
    def _check_supported(self) -> Self:
        check_supported(self, self.ALTERNATIVES, NO_EFFECT)
        return self

    @model_validator(mode="after")
    def _check_unknown(self) -> Self:
        """Limit their size; the model determines which of them are supported."""
        if self.extra_parameters and len(orjson.dumps(check_serializable(self.extra_parameters))) > MAX_EXTRA_BYTES:
            raise InvalidRequest(f"parameters that are not OpenAI's have at most {MAX_EXTRA_BYTES} bytes together")
        return self

    @property
    def usage_in_stream(self) -> bool:
        """Whether the stream ends with a usage event."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def session(self) -> str:
        """The session of the request for affinity, from the body."""
        return self.user or ""

    def max_answer_tokens(self) -> tuple[str, int | None]:
        """Return the name and value of the parameter that limits the answer."""
        return "max_tokens", self.max_tokens

    def body(self) -> Body:
        """Return the body of the request for an engine."""
        excluded = EXCLUDED_FIELDS | self.ALTERNATIVES.keys()
        return self.model_dump(exclude_unset=True, exclude_none=True, exclude=excluded, by_alias=True)


class ChatCompletion(Sampling):
    """`POST /v1/chat/completions`."""

    ALTERNATIVES = {
        "functions": "use tools",
        "function_call": "use tool_choice",
        "audio": "models of this platform answer in text",
        "web_search_options": "use the retrieval endpoints",
    }

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = Field(None, max_length=16)
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: AnyObject | None = None
    # Accepted and not forwarded: they control storage or billing at OpenAI.
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(None, max_length=512)
    # Declared so that the error names the alternative.
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1, fail_fast=True)] | None = None
    web_search_options: Any = None

    @model_validator(mode="after")
    def _check_parameters(self) -> ChatCompletion:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise InvalidRequest("tool_choice needs tools", param="tool_choice")
        if isinstance(self.tool_choice, NamedTool):
            self._check_choice(self.tool_choice.function.name)
        bounds = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(bounds) > 1:
            message = "max_tokens and max_completion_tokens differ; give one of them"
            raise InvalidRequest(message, param="max_tokens")
        check_schemas(self._schemas())
        return self

    def _check_choice(self, choice: str) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if choice not in names:
            raise InvalidRequest(f"tool_choice names {choice!r}; tools has: {', '.join(names)}", param="tool_choice")

    def _schemas(self) -> Schemas:
        """Return the JSON schemas of the request by field name, and whether they are strict."""
        schema_format = self.response_format and self.response_format.json_schema
        schemas = {"response_format": (schema_format.schema_, bool(schema_format.strict))} if schema_format else {}
        for i, function in enumerate(tool.function for tool in self.tools or ()):
            if function.parameters:
                schemas[f"tools[{i}].function"] = function.parameters, bool(function.strict)
        return schemas

    @property
    def session(self) -> str:
        """The session of the request for affinity, from the body."""
        return self.prompt_cache_key or self.user or ""

    def max_answer_tokens(self) -> tuple[str, int | None]:
        """Return the name and value of the parameter that limits the answer."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().max_answer_tokens()


class Completion(Sampling):
    """`POST /v1/completions`."""

    ALTERNATIVES = {
        "best_of": "use n, and choose among the answers",
        "echo": "put the prompt in front of the answer yourself",
        "suffix": "this platform's models write forwards only",
    }

    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=5)
    # Declared so that the error names the alternative.
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    @model_validator(mode="after")
    def _check_parameters(self) -> Completion:
        if self.choices > MAX_COMPLETIONS:
            message = f"{len(prompts_of(self.prompt))} prompts with n={self.n or 1} are {self.choices} choices"
            raise InvalidRequest(f"{message}; there can be {MAX_COMPLETIONS}", param="prompt")
        return self

    @property
    def choices(self) -> int:
        """The number of choices."""
        return len(prompts_of(self.prompt)) * (self.n or 1)

    def max_answer_tokens(self) -> tuple[str, int | None]:
        """Return the name and value of the parameter that limits the answer."""
        return "max_tokens", self.max_tokens or DEFAULT_COMPLETION_TOKENS

    def body(self) -> Body:
        """Return the body of the request for an engine, with a list of one prompt as a single prompt."""
        prompts = prompts_of(self.prompt)
        name, bound = self.max_answer_tokens()
        return super().body() | {"prompt": prompts[0] if len(prompts) == 1 else prompts, name: bound}


def _not_zero(tokens: int) -> int:
    if tokens == 0:
        raise ValueError("it cannot be 0: give a number of tokens, or -1 for the maximum of the model")
    return tokens


class Embedding(StrictObject):
    """`POST /v1/embeddings`."""

    ALTERNATIVES: ClassVar[Mapping[str, str]] = {}

    model: ModelId
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    user: str | None = Field(None, max_length=512)
    truncate_prompt_tokens: Annotated[int, AfterValidator(_not_zero)] | None = Field(None, ge=-1, le=2**31 - 1)
    """As in vLLM: truncate each text to this many tokens. -1: to the maximum of the model."""

    def inputs(self) -> list[str | list[int]]:
        """Return the inputs; each is a text or a list of token ids."""
        inputs = prompts_of(self.input)
        if not all(inputs):
            raise InvalidRequest("input has an empty text; each must have at least one character", param="input")
        return inputs


NOT_FORWARDED = {
    "metadata": "accepted, and not stored",
    "store": "accepted, and nothing is stored: the audit log has a record of each call",
    "service_tier": "accepted: there is one tier",
    "safety_identifier": "accepted, and not passed on",
    "prompt_cache_key": "binds a session to a replica, as `X-Session-Id` does",
    "modalities": '`["text"]`',
}
"""Accepted parameters that are not forwarded, with their effect here."""
HINTS = {
    "prediction": "a hint: a model that cannot use it answers without",
    "reasoning_effort": "a hint: a model that does not reason answers all the same",
    "verbosity": "a hint: a model that does not know it answers all the same",
}
"""Parameters that an engine can ignore."""
EXCLUDED_FIELDS = {"model", "stream", "stream_options", *NOT_FORWARDED}

R = TypeVar("R", bound=StrictObject)


def parse_request(cls: type[R], raw: bytes) -> R:
    """Parse and validate a request body.

    Raises:
        InvalidRequest: the body is not JSON, or has an unknown field or an invalid value.
    """
    try:
        request = cls.model_validate_json(raw)
    except ValidationError as error:
        raise _to_invalid_request(cls, error) from None
    check_keys(raw)
    return request


def supported_parameters(cls: type[StrictObject]) -> list[str]:
    """Return the supported parameters of OpenAI, or of the API that the request was converted from."""
    if names := getattr(cls, "PARAMETERS", ()):
        return list(names)
    return sorted(cls.model_fields.keys() - getattr(cls, "ALTERNATIVES", {}).keys())


def unknown_parameter(cls: type[StrictObject], name: str, extra: Iterable[str] = ()) -> InvalidRequest:
    """Return the error for an unknown parameter; `extra` are the model's own parameters."""
    names = ", ".join([*supported_parameters(cls), *sorted(extra)])
    return InvalidRequest(f"{name!r} is not a parameter here; there are: {names}", param=name)


def check_schemas(schemas: Schemas) -> None:
    """Check the JSON schemas of a request, given by field name and whether they are strict.

    Raises:
        InvalidRequest: they are too large, or one exceeds a limit.
    """
    if len(schemas) > 1 and sum(len(orjson.dumps(schema)) for schema, _ in schemas.values()) > MAX_SCHEMAS_BYTES:
        raise InvalidRequest(f"the schemas of all tools have at most {MAX_SCHEMAS_BYTES} bytes together", param="tools")
    for param, (schema, strict) in schemas.items():
        try:
            check_schema(schema, strict=strict)
        except SchemaError as error:
            raise InvalidRequest(f"{param}: the JSON schema is rejected at {error}", param=param) from error


def _to_invalid_request(cls: type[StrictObject], error: ValidationError) -> InvalidRequest:
    details = error.errors(include_url=False, include_input=False)[0]
    kind, problem, param = details["type"], details["msg"].removeprefix("Value error, "), _param(details["loc"])
    if kind == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {problem}")
    if kind == UNKNOWN_FIELD:
        name = details["ctx"]["name"][:64]
        param = f"{param}.{name}" if param else name
        return (
            InvalidRequest(f"{param} is not supported", param=param) if details["loc"] else unknown_parameter(cls, name)
        )
    if not param:
        return InvalidRequest("the body must be a JSON object")
    if kind == "union_tag_invalid":
        context = details["ctx"]
        message = f"{param}.type is {context['tag'][:64]!r}; supported are: {context['expected_tags']}"
        return InvalidRequest(message, param=f"{param}.type")
    if kind == "union_tag_not_found":
        return InvalidRequest(f"{param}.type is missing", param=f"{param}.type")
    return InvalidRequest(f"{param}: {problem}", param=param)


def _param(path: tuple[int | str, ...]) -> str:
    """Return a path in OpenAI's format, such as `messages[0].role`, without the tags that pydantic adds."""
    text = ""
    for before, at, name in zip((None, None, *path), (None, *path), path, strict=False):
        if isinstance(name, int):
            text += f"[{name}]"
        elif not name.startswith("<") and before != "<list>":  # the type of a content part
            text += f".{name}" if at is not None else name
    return text
