"""Knows every model and where it is served."""

from __future__ import annotations

from pydantic import Field

from drw.api.models.v1 import discovery_rpc as contract
from drw.api.models.v1.discovery_pb2 import (
    GetModelRequest,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    ResolvedModel,
    ResolveModelRequest,
)
from drw.kernel.host import Scope
from drw.kernel.settings import Settings
from drw.models.discovery.registry import ModelSettings, Registry


class DiscoverySettings(Settings):
    """`[services.discovery]`."""

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    default_model: str = ""
    """The chat model that answers where a request names none, unless a model has `default = true`."""


class Discovery(contract.Discovery):
    """Serves `drw.api.models.v1.Discovery` from the settings."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list_models(self, request: ListModelsRequest, /) -> ListModelsResponse:
        """Return every model, without addresses."""
        return ListModelsResponse(models=self._registry.all())

    async def get_model(self, request: GetModelRequest, /) -> Model:
        """Return one model, without its address."""
        return self._registry.get(request.id)

    async def resolve_model(self, request: ResolveModelRequest, /) -> ResolvedModel:
        """Return where a model answers."""
        return self._registry.resolve(request.id)


async def build(scope: Scope) -> Discovery:
    """Make the service with what the configuration names."""
    settings = scope.settings(DiscoverySettings)
    registry = Registry(settings.models, settings.default_model)

    async def describe() -> str:
        return f"{len(settings.models)} models"

    scope.describe(describe)
    return Discovery(registry)
