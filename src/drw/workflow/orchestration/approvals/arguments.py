"""Arguments of an `approval` node: title, form, approvers, deadline and escalation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from drw.workflow.orchestration.activities.activity import Arguments

YEAR_SECONDS = 366 * 24 * 3600
MAX_ESCALATIONS = 5

Approver = Annotated[
    str, StringConstraints(pattern=r"^(desk:[a-z0-9][a-z0-9_-]{0,62}|scope:[a-z]+:[a-z]+|caller:[!-~]{1,200})$")
]
"""Who decides: keys of a desk of the org, keys of the run's desk with a scope, or one caller."""
Approvers = Annotated[list[Approver], Field(min_length=1, max_length=20)]


class Escalation(Arguments):
    """The approvers after a passed deadline, and their deadline."""

    to: Approvers
    deadline_seconds: int = Field(ge=1, le=YEAR_SECONDS)


class ApprovalArguments(Arguments):
    """What is to be approved, by whom, by how many, and until when."""

    title: str = Field(min_length=1, max_length=500)
    details: Any = None
    form: dict[str, Any] | None = None
    quorum: int = Field(default=1, ge=1, le=20)
    approvers: Approvers | None = None
    """None: the run's desk."""
    deadline_seconds: int = Field(default=7 * 24 * 3600, ge=1, le=YEAR_SECONDS)
    escalation: list[Escalation] = Field(default_factory=list, max_length=MAX_ESCALATIONS)
    if_denied: Literal["fail", "continue"] = "fail"
