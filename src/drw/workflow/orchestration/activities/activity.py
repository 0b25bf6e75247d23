"""The interface of an activity: typed arguments in, JSON out, service calls in between.

A step may run again after a crash, so activities are repeatable: whatever they write is named by the ids of
the run and the step. A step of another activity fails as ambiguous where its effect may have happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from drw.api.models.v1.serving_rpc import ServingClient
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import WorkflowEvent, explain
from drw.kernel.storage.database import Connection
from drw.workflow.orchestration.activities.http_requests import HttpRequests
from drw.workflow.orchestration.secrets.source import SecretSource

Function = Callable[[Mapping[str, Any], "StepContext"], Any]
"""A function of the deployer: arguments in, JSON out, as a value or an awaitable. It may be called again."""


@dataclass(frozen=True, slots=True)
class Services:
    """Clients of the services that activities call, and the functions of the deployer."""

    documents: DocumentsClient
    serving: ServingClient
    retrieval: RetrievalClient
    functions: Mapping[str, Function] = field(default_factory=dict)
    http: HttpRequests | None = None
    """Sends the requests of `http` nodes."""
    declared_events: Mapping[str, WorkflowEvent] = field(default_factory=dict)
    secrets: SecretSource = field(default_factory=lambda: SecretSource(()))


@dataclass(frozen=True, slots=True)
class StepContext:
    """The step that an activity runs for, and its time-out."""

    run: str
    step: str
    timeout_seconds: float
    key: str = ""
    """The author's idempotency key; empty: none."""
    template: str = ""
    template_version: str = ""
    secret_names: frozenset[str] = frozenset()
    """The secrets in its arguments."""

    @property
    def idempotency_key(self) -> str:
        """The same for each attempt at the step: the author's key, or the ids of run and step."""
        return self.key or f"{self.run}/{self.step}"


Effect = Callable[[Connection], Awaitable[None]]
"""Writes a change in a transaction."""


@dataclass(frozen=True, slots=True)
class Transactional:
    """An output whose effect is written in the transaction that ends the step, and so happens once."""

    output: Any
    effect: Effect


class Arguments(BaseModel):
    """Base of the arguments of an activity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Activity:
    """The argument model, required scopes and function of an activity."""

    arguments: type[Arguments]
    scopes: tuple[str, ...]
    perform: Callable[[Services, StepContext, Any], Awaitable[Any]]
    repeatable: bool = True
    """Performing it twice for one step has the effect of performing it once."""
    repeats_safely: Callable[[Mapping[str, Any], str], bool] | None = None
    """The same for the arguments and the idempotency key of a step; None: `repeatable` holds for all."""

    def validate(self, values: Mapping[str, Any]) -> Arguments:
        """Return the validated arguments.

        Raises:
            InvalidRequest: an argument is missing, unknown, or has the wrong type.
        """
        return validated(self.arguments, values)


def validated(model: type[A], values: Mapping[str, Any]) -> A:
    """Return the validated arguments of a step.

    Raises:
        InvalidRequest: an argument is missing, unknown, or has the wrong type.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(explain(error, "its arguments")) from None
