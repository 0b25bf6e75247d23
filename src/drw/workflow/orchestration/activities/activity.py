"""The form of an activity: typed arguments in, JSON out, calls of other services in between.

A step may be made again after a crash, so an activity does only what may be done twice: what it writes
has a name made from the ids of the run and the step.
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
    """The services that activities call."""

    documents: DocumentsClient
    serving: ServingClient


@dataclass(frozen=True, slots=True)
class StepContext:
    """For which step an activity is performed, and how many seconds it has."""

    run: str
    step: str
    seconds: float


class Arguments(BaseModel):
    """Base of the arguments of an activity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Activity:
    """One activity."""

    arguments: type[Arguments]
    scopes: tuple[str, ...]
    perform: Callable[[Services, StepContext, Any], Awaitable[Any]]

    def checked(self, given: Mapping[str, Any]) -> Arguments:
        """Return the arguments with their types.

        Raises:
            InvalidRequest: one is missing, unknown or of another type.
        """
        try:
            return self.arguments.model_validate(given)
        except ValidationError as error:
            raise InvalidRequest(explain(error, "its arguments")) from None
