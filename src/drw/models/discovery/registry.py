"""The models that the settings name, and which of them is the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel
from drw.kernel.errors import NotFound
from drw.kernel.settings import ConfigError, Settings

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
ADDRESS = re.compile(r"(https?://[^\s?#]+|unix:/[^\s?#]+)")
CONCURRENT = {"llama_cpp": 8}
CONCURRENT_ELSEWHERE = 256
KINDS = {"chat": Model.CHAT, "embedding": Model.EMBEDDING}


class ModelNotFound(NotFound):
    """There is no model of that id."""

    def __init__(self, model: str, known: Mapping[str, object]) -> None:
        super().__init__(
            f"the model {model!r} does not exist; there are: {', '.join(known) or 'none'}",
            code="model_not_found",
            param="model",
        )


class ModelSettings(Settings):
    """One model: `[services.discovery.models.ID]`."""

    kind: Literal["chat", "embedding"] = "chat"
    engine: Literal["llama_cpp", "openai", "vertex", "onnx"]
    """What speaks to it: one of serving's adapters, or `onnx` for the model of the embedding service."""
    base_url: str = ""
    """What comes before "/chat/completions": `https://...`, `http://...`, or `unix:/path` on this machine."""
    upstream_model: str = ""
    """What the upstream calls it; empty: the same as here."""
    api_key_variable: str = ""
    """The environment variable with the upstream's key; the key itself is never a setting."""
    context_length: int = Field(0, ge=0)
    """Tokens of prompt and answer together; 0: whatever the upstream says."""
    max_prompt_tokens: int = Field(0, ge=0)
    """Longer prompts are refused before the model reads them; 0: whatever fits."""
    max_concurrent: int = Field(0, ge=0, le=10_000)
    """Answers at once; further requests wait in line. 0: what suits the engine."""
    dimensions: int = Field(0, ge=0)
    owned_by: str = ""
    licence: str = ""
    created: int = Field(0, ge=0)
    """When the model came out, in Unix seconds."""
    default: bool = False
    """Makes it the default chat model, whatever `default_model` says."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ModelSettings:
        if self.kind == "embedding":
            if self.engine != "onnx":
                raise ValueError("an embedding model has engine = 'onnx'")
            if self.default:
                raise ValueError("only a chat model can be the default")
        elif self.engine == "onnx":
            raise ValueError("a chat model has engine = 'llama_cpp', 'openai' or 'vertex'")
        elif not ADDRESS.fullmatch(self.base_url):
            raise ValueError(f"base_url is {self.base_url!r}; it must be like 'https://host/v1' or 'unix:/path'")
        return self


class Registry:
    """Every model there is.

    Raises:
        ConfigError: an id is wrong, or it is not clear which model is the default.
    """

    def __init__(self, models: Mapping[str, ModelSettings], default_model: str = "") -> None:
        for name in models:
            if not MODEL_ID.fullmatch(name):
                raise ConfigError(f"{name!r} cannot be the id of a model: letters, digits and ._:/@- only, at most 128")
        self._models = models
        self._default = _default(models, default_model)

    def all(self) -> list[Model]:
        """Return what callers may know of each model."""
        return [self._public(name) for name in self._models]

    def get(self, name: str) -> Model:
        """Return what callers may know of a model; an empty name means the default chat model."""
        return self._public(self._known(name))

    def resolve(self, name: str) -> ResolvedModel:
        """Return where a model answers."""
        name = self._known(name)
        found = self._models[name]
        return ResolvedModel(
            model=self._public(name),
            base_url=found.base_url.rstrip("/"),
            upstream_model=found.upstream_model or name,
            api_key_variable=found.api_key_variable,
            max_prompt_tokens=found.max_prompt_tokens,
            max_concurrent=found.max_concurrent or CONCURRENT.get(found.engine, CONCURRENT_ELSEWHERE),
        )

    def _known(self, name: str) -> str:
        if not name and not self._default:
            raise ModelNotFound("", self._models)
        name = name or self._default
        if name not in self._models:
            raise ModelNotFound(name, self._models)
        return name

    def _public(self, name: str) -> Model:
        found = self._models[name]
        return Model(
            id=name,
            kind=KINDS[found.kind],
            owned_by=found.owned_by or found.engine,
            created=found.created,
            engine=found.engine,
            context_length=found.context_length,
            dimensions=found.dimensions,
            default=name == self._default,
            licence=found.licence,
        )


def _default(models: Mapping[str, ModelSettings], default_model: str) -> str:
    """Return the id of the default chat model; empty where there is no chat model at all.

    A model's own `default = true` comes before `default_model`, so that an operator who adds a
    model in one line can make it the default in the same line.
    """
    chat = [name for name, model in models.items() if model.kind == "chat"]
    marked = [name for name in chat if models[name].default]
    if len(marked) > 1:
        raise ConfigError(f"only one model can have default = true; now {' and '.join(marked)} have it")
    if marked:
        return marked[0]
    if default_model:
        if default_model not in chat:
            there = ", ".join(chat) or "none"
            raise ConfigError(f"discovery.default_model is {default_model!r}; the chat models are: {there}")
        return default_model
    if len(chat) > 1:
        raise ConfigError(f"discovery.default_model must name one of the chat models: {', '.join(chat)}")
    return chat[0] if chat else ""
