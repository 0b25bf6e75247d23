"""Settings of the runtime of model files."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class RuntimeSettings(Base):
    """`[services.serving.runtime]`: models that run in processes of serving."""

    memory_mib: int = Field(default=4096, ge=64)
    """Memory limits of all loaded models together, in MiB. Above it, the least recently used model is unloaded."""
    default_memory_mib: int = Field(default=256, ge=64)
    """Memory limit of the process of a model without `memory_mib`, in addition to three times the size of its files and
    the key-value cache of a chat model."""
    max_loading: int = Field(default=2, ge=1, le=64)
    """Models that are loaded at the same time."""
    load_seconds: float = Field(default=60.0, gt=0, le=600)
    """Time limit of a load, and of the wait for it."""
    infer_seconds: float = Field(default=30.0, gt=0, le=600)
    """Time limit of one inference. A process that takes longer is replaced."""
    check_seconds: float = Field(default=5.0, gt=0, le=600)
    """Interval of the health checks of idle models."""
    max_waiting: int = Field(default=256, ge=2, le=100_000)
    """Maximum requests that wait for one model; further ones receive a 503. One org can have half of them."""
    max_output_bytes: int = Field(default=64 << 20, ge=1024, le=1 << 30)
    """Maximum bytes of the outputs of one request."""
    max_json_bytes: int = Field(default=8 << 20, ge=1024, le=64 << 20)
    """Maximum bytes of the JSON of an inference request or response; larger tensors are sent as binary data."""
    threads: int = Field(default=1, ge=1, le=256)
    """Processor threads of one inference of a model without `threads`."""
    cache_mib: int = Field(default=10_240, ge=1)
    """Maximum MiB of cached files of registered versions; the least recently used ones are deleted."""
    preload: bool = True
    """Load the predictive models of the settings at start, as far as the memory suffices."""
