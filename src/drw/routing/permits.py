"""Permits: whether traffic may reach a model, checked by the registry and again by the services that call models."""

from __future__ import annotations

import time

from drw.api.models.v1.discovery_pb2 import Permit
from drw.kernel.errors import Forbidden

CODE = "model_not_validated"


class ModelNotValidated(Forbidden):
    """The model has no valid validation record, so that no traffic may reach it."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"no traffic may reach {model!r}: {reason}", code=CODE, param="model")


def now() -> float:
    """Return the time in Unix seconds."""
    return time.time()


def refusal(permit: Permit) -> str:
    """Return why a permit is not valid now; empty: it is valid."""
    if not permit.validation:
        return "it has no valid validation record"
    if permit.expires_at and permit.expires_at <= now():
        return "its permit has expired, and the registry has not renewed it"
    return ""


def check(model: str, permit: Permit) -> None:
    """Check that traffic may reach a model.

    Raises:
        ModelNotValidated: it has no permit, or the permit has expired.
    """
    if reason := refusal(permit):
        raise ModelNotValidated(model, reason)
