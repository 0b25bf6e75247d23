"""Server, model metadata and repository of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

from drw.kernel import tenancy
from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import caller
from drw.kernel.storage.audit import AuditWriter
from drw.models.serving.open_inference.requests import check_parameters
from drw.models.serving.ports import short_digest
from drw.models.serving.routing.runtime_directory import RuntimeDirectory, RuntimeModel
from drw.tensors.datatypes import TensorSpec

SERVER = "drw"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_repository(unload_dependents)")
PLATFORM = "onnx_onnxv1"
INVOKE, READ = "models:invoke", "models:read"
READY, UNAVAILABLE = "READY", "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """Name, versions, inputs and outputs of a model."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model of the repository."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository:
    """Answers questions about models, and loads and unloads them."""

    def __init__(self, models: RuntimeDirectory, audit: AuditWriter) -> None:
        self._models = models
        self._audit = audit

    def server(self) -> dict[str, Any]:
        """Return the metadata of the server."""
        return {"name": SERVER, "version": package_version("drw"), "extensions": list(EXTENSIONS)}

    async def is_ready(self, name: str, version: str) -> bool:
        """Return whether a model is loaded and warm; a model that is not loaded is loaded by its first request."""
        try:
            model = await self._model(name, version)
        except NotFound:
            return False
        return self._models.pool.ready(model.spec)

    async def metadata(self, name: str, version: str) -> ModelMetadata:
        """Return the metadata of a model, and load it if the memory suffices without unloading another.

        Raises:
            OutOfModelMemory: it is not loaded, and the memory does not suffice.
        """
        caller().require_scope(READ, INVOKE)
        model = await self._model(name, version)
        async with self._models.pool.lease(model.spec, evict=False) as loaded:
            return ModelMetadata(name, (short_digest(loaded.digest),), loaded.inputs, loaded.outputs)

    async def index(self, *, ready_only: bool) -> list[IndexEntry]:
        """Return the models that the caller can use."""
        caller().require_scope(READ, INVOKE)
        entries = []
        for listed in await self._models.models():
            model = await self._model(listed.id, "")
            loaded = self._models.pool.model(model.spec)
            version = short_digest(loaded.digest if loaded else model.spec.digest)
            if loaded:
                entries.append(IndexEntry(listed.id, version, READY))
            elif not ready_only:
                reason = self._models.pool.failure(model.spec) or "not loaded"
                entries.append(IndexEntry(listed.id, version, UNAVAILABLE, reason))
        return entries

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load all targets of a name.

        Raises:
            ModelLoadFailed, OutOfModelMemory: a model cannot be loaded.
        """
        tenancy.check_change(tenancy.PLATFORM)
        check_parameters({_base(key): value for key, value in parameters.items()}, {}, "the load")
        plan = await self._models.plan(name)
        for model, _ in plan.targets:
            await self._models.pool.load(model.spec)
            await self._audit.record("model.load", f"model/{model.id}", details={"version": self._digest(model)})

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Unload all targets of a name, each after its requests in progress. The next request loads it again."""
        tenancy.check_change(tenancy.PLATFORM)
        check_parameters(parameters, {"unload_dependents": bool}, "the unload")
        plan = await self._models.plan(name)
        for model, _ in plan.targets:
            details = {"version": self._digest(model)}
            await self._models.pool.unload(model.spec)
            await self._audit.record("model.unload", f"model/{model.id}", details=details)

    def _digest(self, model: RuntimeModel) -> str:
        loaded = self._models.pool.model(model.spec)
        return loaded.digest if loaded else model.spec.digest

    async def _model(self, name: str, version: str) -> RuntimeModel:
        plan = await self._models.plan(name, version)
        return plan.models[0]


def _base(parameter: str) -> str:
    """Return the name of a parameter of a load; the files of an override are named `file:PATH`."""
    return "config" if parameter.startswith("file:") else parameter
