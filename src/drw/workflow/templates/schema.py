"""Schema of template YAML: typed keys, unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputSource(_Strict):
    """One input of a run."""

    type: Literal["STRING", "INTEGER", "FILES"]
    required: bool = False
    default: str = Field(default="", max_length=1000)
    description: str = Field(default="", max_length=1000)


class NodeSource(_Strict):
    """One node."""

    id: Name
    uses: str
    needs: list[Name] = Field(default_factory=list, max_length=50)
    with_: dict[str, JsonValue] = Field(default_factory=dict, alias="with", max_length=50)
    for_each: str = ""
    max_attempts: int = Field(default=8, ge=1, le=20)
    timeout_seconds: int = Field(default=120, ge=1, le=900)


class TemplateSource(_Strict):
    """A whole template."""

    name: Name
    description: str = Field(max_length=1000)
    inputs: dict[Name, InputSource] = Field(default_factory=dict, max_length=50)
    nodes: list[NodeSource] = Field(min_length=1, max_length=100)
    output: str
