"""Permits: the record that allows traffic to a model."""

from __future__ import annotations

from drw.api.models.v1.discovery_pb2 import ResolvedModel
from drw.kernel.errors import Forbidden


def check_permit(resolved: ResolvedModel, now: float) -> None:
    """Raise `Forbidden` if no valid record permits traffic to the model; `now` is in Unix seconds."""
    permit = resolved.permit
    if not permit.validation:
        raise Forbidden(
            f"the model {resolved.model.id!r} has no approved validation record", code="model_not_permitted"
        )
    if permit.expires_at and permit.expires_at <= now:
        message = f"the validation record of the model {resolved.model.id!r} has expired or cannot be confirmed now"
        raise Forbidden(message, code="model_not_permitted")
