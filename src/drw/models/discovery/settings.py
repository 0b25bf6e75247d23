"""Settings of models and aliases."""

from __future__ import annotations

from pydantic import Field

from drw.kernel.settings import Settings as Base
from drw.models.discovery.aliases import AliasSettings
from drw.models.discovery.registry import ModelSettings


class Settings(Base):
    """`[services.discovery]`."""

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    default_model: str = ""
    """The chat model that answers where a request names none, unless a model has `default = true`."""
    aliases: dict[str, AliasSettings] = Field(default_factory=dict)
