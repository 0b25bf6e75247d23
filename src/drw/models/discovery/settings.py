"""Settings of models and aliases."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drw.kernel.runtime.settings import ConfigError
from drw.kernel.runtime.settings import Settings as Base
from drw.models.discovery.aliases import AliasSettings
from drw.models.discovery.registry import ModelSettings, Registry


class Settings(Base):
    """`[services.discovery]`."""

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    """The models by id."""
    default_model: str = ""
    """The chat model for requests without a model, unless a model has `default = true`."""
    aliases: dict[str, AliasSettings] = Field(default_factory=dict)
    """Aliases: names for one or more models."""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        try:
            Registry(self.models, self.default_model, self.aliases)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return self
