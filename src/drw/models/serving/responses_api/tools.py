"""Tools of the Responses API: functions of the caller and file search."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, Tag, model_validator

from drw.kernel import attribute_filters
from drw.models.serving.openai.messages import (
    MAX_TOOLS,
    TEXT_OR_OBJECT,
    AnyObject,
    FunctionName,
    Ignored,
    Schema,
    StrictObject,
)

MAX_STORES = 8
MAX_RESULTS, DEFAULT_RESULTS = 50, 10


class FunctionTool(StrictObject):
    """A function of the caller."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None


class Ranking(StrictObject):
    """Ranking options; there is one ranker."""

    ranker: Literal["auto", "none", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)


class FileSearchTool(StrictObject):
    """A search in vector stores, which precedes the answer."""

    type: Literal["file_search"]
    vector_store_ids: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=128)]],
        Field(min_length=1, max_length=MAX_STORES, fail_fast=True),
    ]
    max_num_results: int | None = Field(None, ge=1, le=MAX_RESULTS)
    filters: AnyObject | None = None
    ranking_options: Ranking | None = None
    cache_control: Ignored = None

    @model_validator(mode="after")
    def _check_filters(self) -> Self:
        if self.filters is not None:
            attribute_filters.parse(self.filters, "tools.filters")
        return self

    @property
    def threshold(self) -> float:
        """The lowest score of a passage."""
        return (self.ranking_options and self.ranking_options.score_threshold) or 0.0


ResponseTool = Annotated[FunctionTool | FileSearchTool, Field(discriminator="type")]


class NamedChoice(StrictObject):
    """A required tool, or the tools that are allowed."""

    type: Literal["function", "file_search", "allowed_tools"]
    name: FunctionName | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if (self.type == "function") != (self.name is not None):
            raise ValueError("name goes with the type 'function', and only with it")
        if (self.type == "allowed_tools") != (self.mode is not None and self.tools is not None):
            raise ValueError("mode and tools go with the type 'allowed_tools', and only with it")
        return self

    def allows(self, tool: FunctionTool | FileSearchTool) -> bool:
        """Return whether the model can use a tool."""
        if self.type != "allowed_tools":
            return True
        references = ({"type": "file_search"}, {"type": "function", "name": getattr(tool, "name", None)})
        return references[tool.type == "function"] in (self.tools or ())


ChoiceWord = Literal["none", "auto", "required"]
Choice = Annotated[Annotated[ChoiceWord, Tag("<text>")] | Annotated[NamedChoice, Tag("<object>")], TEXT_OR_OBJECT]
