"""Settings of models, aliases and the model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from drw.egress.allowlist import EgressAllowlist
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import ConfigError
from drw.kernel.runtime.settings import Settings as Base
from drw.models.discovery.aliases import AliasSettings
from drw.models.discovery.registry import ModelSettings, Registry

GIB = 1 << 30


class Settings(Base):
    """`[services.discovery]`."""

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    """The models by id."""
    default_model: str = ""
    """The chat model for requests without a model, unless a model has `default = true`."""
    aliases: dict[str, AliasSettings] = Field(default_factory=dict)
    """Aliases: names for one or more models."""
    require_validation: bool = False
    """Whether the models of the settings need a validation record too. A change of their settings, or of the files in
    their `folder`, invalidates it."""
    max_validation_days: int = Field(400, ge=1, le=3650)
    """Maximum time from the submission of a validation record to its expiry, in days."""
    permit_seconds: float = Field(900.0, ge=10, le=86_400)
    """How long serving may rely on a validation record that it cannot check again, in seconds."""
    probe_seconds: float = Field(30.0, ge=0.05, le=3600)
    """Interval of the probes of all replicas, in seconds."""
    require_signature: bool = False
    """Whether files of versions need a signature of a trusted signer."""
    trusted_keys: tuple[Path, ...] = Field((), max_length=64)
    """Files with public keys (PEM) whose signatures of model files are trusted."""
    trusted_roots: tuple[Path, ...] = Field((), max_length=64)
    """Files with certificates (PEM) of authorities whose code-signing certificates are trusted."""
    allowed_endpoints: tuple[str, ...] = Field((), max_length=1000)
    """Addresses that versions can have as endpoints, as `allowed_upstreams` of the load balancer. Empty: none."""
    endpoint_keys: dict[str, tuple[str, ...]] = Field(default_factory=dict, max_length=100)
    """Addresses to which the key in an environment variable may be sent, by the name of the variable."""
    max_file_bytes: int = Field(64 * GIB, ge=1024, le=1024 * GIB)
    """Maximum size of one model file, in bytes."""
    max_org_bytes: int = Field(256 * GIB, ge=1024)
    """Maximum size of all model files of an org, in bytes."""
    max_uploads: int = Field(4, ge=1, le=100)
    """Maximum uploads of an org at once."""
    max_versions: int = Field(100_000, ge=1)
    """Maximum number of versions of an org."""
    inspection_seconds: float = Field(1800.0, gt=0, le=86_400)
    """Time limit of the inspection of the files of a version, in seconds."""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        try:
            Registry(self.models, self.default_model, self.aliases)
            for entries in (self.allowed_endpoints, *self.endpoint_keys.values()):
                EgressAllowlist(entries)
        except (ConfigError, InvalidRequest) as error:
            raise ValueError(error.message) from error
        return self
