"""Builds the runtime of model files from the settings of serving."""

from __future__ import annotations

import logging
from contextlib import suppress

from drw.api.models.v1.discovery_pb2 import ListModelsRequest, Model, ResolveModelRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import DrwError, NotFound
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import ConfigError
from drw.models.serving.ports import ModelLoader
from drw.models.serving.runtime.model_files import ModelFiles
from drw.models.serving.runtime.plan_switch import PlanSwitch
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.specs import has_files, spec_of
from drw.models.serving.settings import Settings

LOADERS = {"onnx": "onnx", "llama_cpp": "llama_cpp_process"}
"""The adapter that loads the files of a model, by the engine of the model."""

log = logging.getLogger(__name__)


def build_runtime(
    scope: ServiceContext, settings: Settings, discovery: DiscoveryClient, clock: Clock
) -> tuple[ModelPool, PlanSwitch]:
    """Return the pool of loaded models, and the switch between plans."""
    loaders: dict[str, ModelLoader] = {}

    def loader(engine: str) -> ModelLoader:
        if (adapter := LOADERS.get(engine)) is None:
            raise ConfigError(f"serving cannot run the files of a model with the engine {engine!r}")
        if adapter not in loaders:
            section = {"max_output_bytes": settings.runtime.max_output_bytes} if adapter == "onnx" else {}
            loaders[adapter] = scope.make_adapter(ModelLoader, adapter, section)  # type: ignore[type-abstract]
        return loaders[adapter]

    files = ModelFiles(discovery, scope.folder / "models", settings.runtime.cache_mib)
    pool = ModelPool(loader, files.locate, settings.runtime)
    switch = PlanSwitch(pool, clock, settings.switch_seconds)
    scope.on_stop(pool.close)
    scope.on_stop(switch.close)
    scope.background(pool.watch)
    if settings.runtime.preload:

        async def preload() -> None:
            await preload_models(discovery, pool)

        scope.background(preload)
    return pool, switch


async def preload_models(discovery: DiscoveryClient, pool: ModelPool) -> None:
    """Load the predictive models and rerankers of the settings while the memory suffices without unloading another."""
    for model in (await discovery.list_models(ListModelsRequest())).models:
        if model.kind not in (Model.PREDICTIVE, Model.RERANKER) or model.digest:
            continue
        with suppress(NotFound):
            resolved = await discovery.resolve_model(ResolveModelRequest(id=model.id))
            if has_files(resolved) and not resolved.files and resolved.model.id == model.id:
                try:
                    async with pool.lease(spec_of(resolved), evict=False):
                        pass
                except DrwError as error:
                    log.warning("not loaded at start: %s", error.message)
