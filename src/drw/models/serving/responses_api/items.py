"""Input items of the Responses API.

Fields: OpenAI API reference, "Create a model response", `input`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, StringConstraints, Tag

from drw.models.serving.openai.messages import TEXT_OR_LIST, AnyObject, Ignored, StrictObject

MAX_PARTS = 4096

ItemId = Annotated[str, StringConstraints(max_length=128)]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(StrictObject):
    """A text of the caller."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Ignored = None


class InputImage(StrictObject):
    """An image, for multimodal models."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["low", "high", "auto"] | None = None
    prompt_cache_breakpoint: Ignored = None


class OutputText(StrictObject):
    """A text of an earlier answer."""

    type: Literal["output_text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None
    parsed: Ignored = None


class Refusal(StrictObject):
    """A refusal of an earlier answer."""

    type: Literal["refusal"]
    refusal: str


MessagePart = Annotated[InputText | InputImage | OutputText | Refusal, Field(discriminator="type")]
MessageParts = Annotated[list[MessagePart], Field(max_length=MAX_PARTS, fail_fast=True)]
ResultPart = Annotated[InputText | InputImage, Field(discriminator="type")]
ResultParts = Annotated[list[ResultPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class MessageItem(StrictObject):
    """A message of the caller, or an earlier one of the model."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[Annotated[str, Tag("<text>")] | Annotated[MessageParts, Tag("<list>")], TEXT_OR_LIST]
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Ignored = None


class FunctionCallItem(StrictObject):
    """An earlier call of a function."""

    type: Literal["function_call"]
    call_id: CallId
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str
    id: ItemId | None = None
    status: ItemStatus | None = None
    parsed_arguments: Ignored = None


class FunctionOutputItem(StrictObject):
    """The result of a function."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Annotated[Annotated[str, Tag("<text>")] | Annotated[ResultParts, Tag("<list>")], TEXT_OR_LIST]
    id: ItemId | None = None
    status: ItemStatus | None = None


class ReasoningText(StrictObject):
    """A text of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(StrictObject):
    """The reasoning of an earlier answer."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: Annotated[list[AnyObject], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    content: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    status: ItemStatus | None = None


class FileSearchItem(StrictObject):
    """An earlier search. Its results are not sent to the model again: each request searches anew."""

    type: Literal["file_search_call"]
    id: ItemId | None = None
    queries: Annotated[list[str], Field(max_length=MAX_PARTS, fail_fast=True)] = []
    status: Ignored = None
    results: Ignored = None


def _item_type(value: Any) -> str | None:
    """Return the type of an item; messages can omit it."""
    if isinstance(value, BaseModel):
        return str(getattr(value, "type", ""))
    if not isinstance(value, dict):
        return None
    kind = value.get("type") or ("message" if "role" in value else None)
    return kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FileSearchItem, Tag("file_search_call")],
    Discriminator(_item_type),
]
