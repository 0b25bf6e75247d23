"""The models that the settings name, and which of them is the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from drw.api.models.v1.discovery_pb2 import Alias, Deadlines, Model, Plan, ResolvedModel, Target
from drw.egress.allowlist import check_settings
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.runtime.settings import ConfigError, Settings
from drw.models.discovery.aliases import Aliases, AliasSettings

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
ADDRESS = re.compile(r"(https?://[^\s?#]+|unix:/[^\s?#]+)")
Parameter = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
CONCURRENT = {"llama_cpp": 8}
CONCURRENT_ELSEWHERE = 256
RESERVED = frozenset(
    # what the platform decides
    ("model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "max_tokens", "max_completion_tokens")
    + ("cache_salt", "continuous_usage_stats", "use_beam_search", "continue_final_message", "add_generation_prompt")
    + ("kv_transfer_params", "priority", "request_id", "user")
    # what would be in an answer that leaves it out
    + ("echo", "prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids")
)
"""Parameters that no setting passes on."""
MAX_REPLICAS = 64
MAX_FALLBACKS = 8
PREFILL = {"llama_cpp": "assistant"}
"""How each engine goes on with an answer that another has begun; any other does not."""
ALIAS = "alias"
"""What stands for the engine of an alias."""
KINDS = {"chat": Model.CHAT, "embedding": Model.EMBEDDING}


class ModelNotFound(NotFound):
    """There is no model of that id."""

    def __init__(self, model: str, known: Mapping[str, object]) -> None:
        super().__init__(
            f"the model {model!r} does not exist; there are: {', '.join(known) or 'none'}",
            code="model_not_found",
            param="model",
        )


class DeadlineSettings(Settings):
    """How long a model may take, in seconds; 0: as serving's own settings have it."""

    connect_seconds: float = Field(default=0.0, ge=0, le=60)
    """For the connection."""
    first_token_seconds: float = Field(default=0.0, ge=0, le=3600)
    """From the request to the first token."""
    between_tokens_seconds: float = Field(default=0.0, ge=0, le=3600)
    """From one token to the next."""
    total_seconds: float = Field(default=0.0, ge=0, le=3600)
    """For the whole answer, with every attempt at it."""


class SamplingSettings(Settings):
    """How a model chooses each token where a request does not say; without a value, as the engine does by itself."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    """How freely it chooses; 0 always takes the likeliest token."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Only the likeliest tokens that together have this probability are chosen from."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """How much less likely a token becomes each time that it has come."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """How much less likely a token becomes once it has come."""
    repeat_penalty: float | None = Field(default=None, gt=0, le=2)
    """Of llama.cpp only: how much less likely tokens of the last 64 become; 1 is no penalty. A request with a
    frequency or presence penalty is without it."""


class ModelSettings(Settings):
    """One model: `[services.discovery.models.ID]`."""

    kind: Literal["chat", "embedding"] = "chat"
    """What it is for."""
    engine: Literal["llama_cpp", "openai", "vertex", "onnx"]
    """The engine adapter, or `onnx` for the embedding model."""
    base_url: str = ""
    """Base URL without `/chat/completions`: `https://...`, `http://...`, or `unix:/path`."""
    base_urls: tuple[str, ...] = Field((), max_length=MAX_REPLICAS)
    """In place of `base_url`, where the same model answers in several places."""
    upstream_model: str = ""
    """What the upstream calls it; empty: the same as here."""
    api_key_variable: str = ""
    """The environment variable with the upstream's key; the key itself is never a setting."""
    context_length: int = Field(0, ge=0)
    """Tokens of prompt and answer together; 0: whatever the upstream says."""
    max_prompt_tokens: int = Field(0, ge=0)
    """Longer prompts are refused before the model reads them; 0: whatever fits."""
    max_concurrent: int = Field(0, ge=0, le=10_000)
    """Maximum concurrent requests; further requests wait in the admission queue. 0: the default of the engine."""
    fallbacks: tuple[str, ...] = Field((), max_length=MAX_FALLBACKS)
    """Chat models that answer where this one cannot, in this order."""
    deadlines: DeadlineSettings = DeadlineSettings()
    prefill: Literal["", "none", "assistant", "prefix", "continue_final_message"] = ""
    """How the model continues a partial answer of another model. `assistant`: it continues a last assistant message, as
    llama.cpp does; `prefix`: that message is marked with `prefix`, as for Mistral and DeepSeek;
    `continue_final_message`: the parameter of vLLM and SGLang; `none`: it cannot. Empty: the engine's default."""
    sampling: SamplingSettings = SamplingSettings()
    """How it chooses each token where a request does not say."""
    affinity: Literal["none", "session", "prefix"] = "session"
    """Which requests go to the same place, as far as its load allows: those of one session, besides those whose
    prompts begin alike, or none."""
    parameters: tuple[Parameter, ...] = Field((), max_length=50)
    """Parameters of requests that are not OpenAI's and that the upstream takes, as vLLM takes `top_k`: they go to it as
    they are. Any other is refused."""
    reasoning: Literal["drop", "send"] = "drop"
    """Reasoning of earlier answers in `messages`. `send`: pass it to models that need it, as DeepSeek and Kimi do
    between tool calls; `drop`: remove it for models that reject it or read it as part of the prompt."""
    dimensions: int = Field(0, ge=0)
    """Of an embedding model: the length of its vectors."""
    owned_by: str = ""
    """Who made it, as `/v1/models` shows it."""
    licence: str = ""
    """Its licence, as `drw models` shows it."""
    created: int = Field(0, ge=0)
    """When the model came out, in Unix seconds; 0: when this platform first had it."""
    default: bool = False
    """Makes it the default chat model, whatever `default_model` says."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ModelSettings:
        if self.kind == "embedding":
            if self.engine != "onnx":
                raise ValueError("an embedding model has engine = 'onnx'")
            if self.default:
                raise ValueError("only a chat model can be the default")
            if self.fallbacks:
                raise ValueError("an embedding model has no fallbacks: vectors of two models cannot be compared")
        elif self.parameters and self.engine == "llama_cpp":
            raise ValueError("parameters go to engines 'openai' and 'vertex'")
        elif reserved := sorted(RESERVED.intersection(self.parameters)):
            raise ValueError(f"parameters has {reserved[0]!r}, which the platform itself sets or answers")
        elif self.engine == "onnx":
            raise ValueError("a chat model has engine = 'llama_cpp', 'openai' or 'vertex'")
        else:
            self._check_addresses()
        return self

    @model_validator(mode="after")
    def _engine_has_its_sampling(self) -> ModelSettings:
        if self.sampling.repeat_penalty is not None and self.engine != "llama_cpp":
            raise ValueError("sampling.repeat_penalty needs engine = 'llama_cpp'; others have frequency_penalty")
        return self

    def addresses(self) -> list[str]:
        """Return every place where it answers."""
        return [url.rstrip("/") for url in self.base_urls or (self.base_url,)]

    def _check_addresses(self) -> None:
        if self.base_url and self.base_urls:
            raise ValueError("give base_url or base_urls, not both")
        for url in self.base_urls or (self.base_url,):
            if not ADDRESS.fullmatch(url):
                raise ValueError(f"base_url is {url!r}; it must be like 'https://host/v1' or 'unix:/path'")
            try:
                check_settings(url)
            except InvalidRequest as error:
                raise ValueError(error.message) from error
        if len(set(self.addresses())) != len(self.addresses()):
            raise ValueError("base_urls has an address twice")


class Registry:
    """Every model there is, and every alias; `since`: when this platform first had each, in Unix seconds.

    Raises:
        ConfigError: an id is wrong, a fallback is none, or it is not clear which model is the default.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        default_model: str = "",
        aliases: Mapping[str, AliasSettings] | None = None,
        since: Mapping[str, int] | None = None,
    ) -> None:
        for name in models:
            if not MODEL_ID.fullmatch(name):
                raise ConfigError(f"{name!r} cannot be the id of a model: letters, digits and ._:/@- only, at most 128")
        self._models = models
        self._since = since or {}
        self._default = _default(models, default_model)
        chat = [name for name, model in models.items() if model.kind == "chat"]
        _check_fallbacks(models, chat)
        self.aliases = Aliases(aliases or {}, chat, models)

    def all(self) -> list[Model]:
        """Return what callers may know of each model and alias."""
        models = [self._public(name) for name in self._models]
        return models + [self._public_alias(alias) for alias in self.aliases.all() if self.aliases.models(alias)]

    def get(self, name: str) -> Model:
        """Return what callers may know of a model or alias; an empty name means the default chat model."""
        if (alias := self.aliases.get(name)) and self.aliases.models(alias):
            return self._public_alias(alias)
        return self._public(self._known(name))

    def plan(self, name: str) -> Plan:
        """Return all models that may answer for a model's or an alias's name.

        A model that an alias names and that there is not any more is left out; where none is left, so is the alias.
        """
        if (alias := self.aliases.get(name)) is None or not (left := self.aliases.models(alias)):
            resolved = self.resolve(name)
            fallbacks = [self.resolve(other) for other in resolved.fallbacks]
            return Plan(id=resolved.model.id, targets=[Target(model=resolved, weight=1)], fallbacks=fallbacks)
        weights = {target.model: target.weight for target in alias.targets}
        targets = [Target(model=self.resolve(m), weight=weights[m]) for m in left if m in weights]
        fallbacks = [self.resolve(m) for m in left if m not in weights]
        return Plan(id=name, targets=targets, fallbacks=fallbacks, total_seconds=alias.total_seconds)

    def resolve(self, name: str) -> ResolvedModel:
        """Return where a model answers."""
        name = self._known(name)
        settings = self._models[name]
        return ResolvedModel(
            model=self._public(name),
            base_url=settings.addresses()[0],
            base_urls=settings.addresses(),
            upstream_model=settings.upstream_model or name,
            api_key_variable=settings.api_key_variable,
            max_prompt_tokens=settings.max_prompt_tokens,
            max_concurrent=settings.max_concurrent or CONCURRENT.get(settings.engine, CONCURRENT_ELSEWHERE),
            fallbacks=settings.fallbacks,
            deadlines=Deadlines(**settings.deadlines.model_dump()),
            prefill=settings.prefill or PREFILL.get(settings.engine, "none"),
            affinity=settings.affinity,
            parameters=settings.parameters,
            takes_reasoning=settings.reasoning == "send",
            sampling=settings.sampling.model_dump(exclude_none=True),
        )

    def _known(self, name: str) -> str:
        if not name and not self._default:
            raise ModelNotFound("", self._models)
        name = name or self._default
        if name not in self._models:
            raise ModelNotFound(name, {**self._models, **{alias.name: alias for alias in self.aliases.all()}})
        return name

    def _public(self, name: str) -> Model:
        settings = self._models[name]
        return Model(
            id=name,
            kind=KINDS[settings.kind],
            owned_by=settings.owned_by or settings.engine,
            created=settings.created or self._since.get(name, 0),
            engine=settings.engine,
            context_length=settings.context_length,
            dimensions=settings.dimensions,
            default=name == self._default,
            licence=settings.licence,
            fallbacks=settings.fallbacks,
        )

    def _public_alias(self, alias: Alias) -> Model:
        models = self.aliases.models(alias)
        targets = [name for name in models if name not in alias.fallbacks]
        first = self._models[models[0]]
        return Model(
            id=alias.name,
            kind=Model.CHAT,
            owned_by=first.owned_by or first.engine,
            created=first.created or self._since.get(models[0], 0),
            engine=ALIAS,
            # What every target takes; a fallback with less is passed by when it must be.
            context_length=min((self._models[name].context_length for name in targets), default=0),
            targets=targets,
            fallbacks=[name for name in models if name in alias.fallbacks],
        )


def _check_fallbacks(models: Mapping[str, ModelSettings], chat: list[str]) -> None:
    for name, model in models.items():
        for other in model.fallbacks:
            if other not in chat or other == name:
                there = ", ".join(each for each in chat if each != name) or "none"
                raise ConfigError(f"models.{name}.fallbacks has {other!r}; other chat models are: {there}")


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
