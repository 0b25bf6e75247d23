"""Parts of Anthropic's requests: messages, content blocks, tools.

Fields: Anthropic API reference, "Create a Message".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, Tag, model_validator

from drw.models.serving.openai.messages import TEXT_OR_LIST, AnyObject, FunctionName, Ignored, Schema, StrictObject

MAX_BLOCKS = 4096


class TextBlock(StrictObject):
    """A text block."""

    type: Literal["text"]
    text: str
    cache_control: Ignored = None
    citations: Ignored = None


class ImageSource(StrictObject):
    """The bytes or the URL of an image."""

    type: Literal["base64", "url"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"] | None = None
    data: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+=*$")] | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        given = {name for name in ("media_type", "data", "url") if getattr(self, name) is not None}
        if given != ({"url"} if self.type == "url" else {"media_type", "data"}):
            raise ValueError("the type 'url' goes with url, and the type 'base64' with media_type and data")
        return self

    @property
    def data_url(self) -> str:
        """The URL of the image, or a data URL with its bytes."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


class ImageBlock(StrictObject):
    """An image, for multimodal models."""

    type: Literal["image"]
    source: ImageSource
    cache_control: Ignored = None


class ThinkingBlock(StrictObject):
    """The reasoning of an earlier answer. The signature is not checked."""

    type: Literal["thinking"]
    thinking: str
    signature: Ignored = None


class RedactedThinkingBlock(StrictObject):
    """Encrypted reasoning of another provider. It is ignored, since only that provider can read it."""

    type: Literal["redacted_thinking"]
    data: Ignored = None


class ToolUseBlock(StrictObject):
    """An earlier tool call."""

    type: Literal["tool_use"]
    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: AnyObject
    cache_control: Ignored = None
    caller: Ignored = None


ResultBlock = Annotated[TextBlock | ImageBlock, Field(discriminator="type")]
ResultBlocks = Annotated[list[ResultBlock], Field(max_length=MAX_BLOCKS, fail_fast=True)]


class ToolResultBlock(StrictObject):
    """The result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    content: Annotated[Annotated[str, Tag("<text>")] | Annotated[ResultBlocks, Tag("<list>")], TEXT_OR_LIST] | None = (
        None
    )
    is_error: bool | None = None
    cache_control: Ignored = None


Block = Annotated[
    TextBlock | ImageBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]
Blocks = Annotated[list[Block], Field(max_length=MAX_BLOCKS, fail_fast=True)]
BLOCKS_BY_ROLE: dict[str, tuple[type[StrictObject], ...]] = {
    "user": (TextBlock, ImageBlock, ToolResultBlock),
    "assistant": (TextBlock, ThinkingBlock, RedactedThinkingBlock, ToolUseBlock),
    "system": (TextBlock,),
}


class Turn(StrictObject):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[Annotated[str, Tag("<text>")] | Annotated[Blocks, Tag("<list>")], TEXT_OR_LIST]

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        for block in self.blocks:
            if not isinstance(block, BLOCKS_BY_ROLE[self.role]):
                raise ValueError(f"a message of the role {self.role!r} cannot have a block of the type {block.type!r}")
        return self

    @property
    def blocks(self) -> list[Any]:
        """The content as a list of blocks."""
        return [TextBlock(type="text", text=self.content)] if isinstance(self.content, str) else list(self.content)


SystemBlocks = Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS, fail_fast=True)]
System = Annotated[Annotated[str, Tag("<text>")] | Annotated[SystemBlocks, Tag("<list>")], TEXT_OR_LIST]


class ClientTool(StrictObject):
    """A tool of the client."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: Schema
    strict: bool | None = None
    cache_control: Ignored = None
    eager_input_streaming: Ignored = None
    defer_loading: Literal[False] | None = None
    allowed_callers: Annotated[list[Literal["direct"]], Field(max_length=1, fail_fast=True)] | None = None


class ToolChoice(StrictObject):
    """Which tools the model can or must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("name goes with the type 'tool', and only with it")
        return self


class Thinking(StrictObject):
    """Whether the reasoning of the model is part of the answer."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(None, ge=0)
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(StrictObject):
    """The JSON schema of the answer."""

    type: Literal["json_schema"]
    # `schema` is a method of pydantic; the JSON field has that name.
    schema_: Schema = Field(alias="schema")


class OutputConfig(StrictObject):
    """Effort and format of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class RequestMetadata(StrictObject):
    """An id of the caller's end user."""

    user_id: str | None = Field(None, max_length=4096)
