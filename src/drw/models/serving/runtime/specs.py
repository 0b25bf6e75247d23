"""Specifications of models that discovery resolved."""

from __future__ import annotations

from typing import Literal

from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel
from drw.models.serving.ports import FileReference, ModelSpec

Kind = Literal["chat", "predictive", "reranker"]
KINDS: dict[int, Kind] = {Model.CHAT: "chat", Model.PREDICTIVE: "predictive", Model.RERANKER: "reranker"}


def has_files(resolved: ResolvedModel) -> bool:
    """Return whether serving runs the model from its files, instead of calling an address."""
    return bool(resolved.files or resolved.folder)


def spec_of(resolved: ResolvedModel) -> ModelSpec:
    """Return the specification of a model with files."""
    model, runtime = resolved.model, resolved.runtime
    return ModelSpec(
        id=model.id,
        org=getattr(resolved, "org", "") if resolved.files else "",
        engine=model.engine,
        kind=KINDS[model.kind],
        digest=model.digest,
        folder=resolved.folder,
        files=tuple(FileReference(file.path, file.sha256, file.size) for file in resolved.files),
        memory_mib=runtime.memory_mib,
        threads=runtime.threads,
        max_batch=max(1, runtime.max_batch),
        max_batch_delay_seconds=runtime.max_batch_delay_ms / 1000,
        slots=resolved.max_concurrent or 4,
        context_length=model.context_length,
    )
