"""Schema of template YAML, format 1: typed keys, unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
MAX_NODES = 100
"""Maximum number of nodes of a template, those of bodies and cases included."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputSource(_Strict):
    """One input of a run."""

    type: Literal["STRING", "INTEGER", "NUMBER", "BOOLEAN", "FILES", "LIST", "OBJECT"]
    required: bool = False
    default: JsonValue = None
    description: str = Field(default="", max_length=1000)


class CaseSource(_Strict):
    """One case of a `switch`."""

    when: str = Field(default="", description="A condition, such as ${inputs.limit > 5}; without it: the default.")
    nodes: list[NodeSource] = Field(default_factory=list, max_length=MAX_NODES)
    output: JsonValue = Field(default=None, description="The output of the `switch` if this case is chosen.")


_KEY = "A text with expressions. Effects outside of the platform with the same key happen once."


class CompensationSource(_Strict):
    """Undoes a node if the run fails or is cancelled after it."""

    uses: str = Field(description="An activity that does not wait.")
    with_: dict[str, JsonValue] = Field(
        default_factory=dict, alias="with", max_length=50, description="Arguments; they can use the node's output."
    )
    idempotency_key: str = Field(default="", max_length=1000, description=_KEY)
    max_attempts: int = Field(default=8, ge=1, le=20)
    timeout_seconds: int = Field(default=120, ge=1, le=900, description="Time limit of one attempt.")


class NodeSource(_Strict):
    """One node."""

    id: Name
    uses: str = Field(description="An activity, or `switch`, `loop` or `map`.")
    needs: list[Name] = Field(default_factory=list, max_length=50, description="Nodes that must succeed first.")
    with_: dict[str, JsonValue] = Field(
        default_factory=dict, alias="with", max_length=50, description="Arguments; ${...} is a CEL expression."
    )
    for_each: str = Field(default="", description="Runs the node once for each item of an input: ${inputs.NAME}.")
    nodes: list[NodeSource] = Field(
        default_factory=list, max_length=MAX_NODES, description="The body of a `loop` or `map`."
    )
    output: JsonValue = Field(default=None, description="The output of the body of a `loop` or `map`.")
    until: str = Field(default="", description="Ends a `loop`: a condition, evaluated after each iteration.")
    cases: list[CaseSource] = Field(
        default_factory=list, max_length=20, description="The cases of a `switch`; the first true one runs."
    )
    output_schema: dict[str, JsonValue] = Field(
        default_factory=dict, description="JSON Schema of the output; another output fails the step."
    )
    max_attempts: int = Field(default=8, ge=1, le=20)
    timeout_seconds: int = Field(default=120, ge=1, le=900, description="Time limit of one attempt.")
    idempotency_key: str = Field(default="", max_length=1000, description=f"Of `http`, `event` and `python`. {_KEY}")
    compensate: CompensationSource | None = Field(
        default=None, description="Undoes the node if the run fails or is cancelled after it."
    )


class TemplateSource(_Strict):
    """A workflow template."""

    format: Literal[1] = Field(default=1, description="Version of this format.")
    name: Name
    description: str = Field(max_length=1000)
    inputs: dict[Name, InputSource] = Field(default_factory=dict, max_length=50)
    nodes: list[NodeSource] = Field(min_length=1, max_length=MAX_NODES)
    output: JsonValue
    retention_days: int | None = Field(
        default=None, ge=0, le=36_500, description="Days after which an ended run is deleted; 0: never."
    )
