"""The interface of an activity: typed arguments in, JSON out, service calls in between.

A step may run again after a crash, so activities are repeatable: whatever they write is named by the ids of
the run and the step. A step of another activity fails as ambiguous where its effect may have happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from drw.api.models.v1.serving_rpc import ServingClient
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import explain


@dataclass(frozen=True, slots=True)
class Services:
    """Clients of the services that activities call."""

    documents: DocumentsClient
    serving: ServingClient


@dataclass(frozen=True, slots=True)
class StepContext:
    """The step that an activity runs for, and its time-out."""

    run: str
    step: str
    timeout_seconds: float


class Arguments(BaseModel):
    """Base of the arguments of an activity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Activity:
    """The argument model, required scopes and function of an activity."""

    arguments: type[Arguments]
    scopes: tuple[str, ...]
    perform: Callable[[Services, StepContext, Any], Awaitable[Any]]
    repeatable: bool = True
    """Performing it twice for one step has the effect of performing it once."""

    def validate(self, values: Mapping[str, Any]) -> Arguments:
        """Return the validated arguments.

        Raises:
            InvalidRequest: an argument is missing, unknown, or has the wrong type.
        """
        try:
            return self.arguments.model_validate(values)
        except ValidationError as error:
            raise InvalidRequest(explain(error, "its arguments")) from None
