"""Registry of the configured models, their aliases and the default model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from drw.api.models.v1.discovery_pb2 import Alias, Deadlines, Model, Permit, Plan, ResolvedModel, Runtime, Target
from drw.egress.allowlist import check_settings
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.runtime.settings import ConfigError, Settings
from drw.models.discovery.aliases import Aliases, AliasSettings
from drw.models.discovery.versions import endpoints, identity

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
ADDRESS = re.compile(r"(https?://[^\s?#]+|unix:/[^\s?#]+)")
Parameter = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
MAX_CONCURRENT = {"llama_cpp": 8}
DEFAULT_MAX_CONCURRENT = 256
RESERVED = frozenset(
    # set by the platform
    ("model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "max_tokens", "max_completion_tokens")
    + ("cache_salt", "continuous_usage_stats", "use_beam_search", "continue_final_message", "add_generation_prompt")
    + ("kv_transfer_params", "priority", "request_id", "user")
    # change the format of the answer
    + ("echo", "prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids")
)
"""Parameters that `parameters` of a model cannot contain."""
MAX_REPLICAS = 64
MAX_FALLBACKS = 8
PREFILL = {"llama_cpp": "assistant"}
"""The default `prefill` of each engine; `none` for others."""
ALIAS = "alias"
"""The engine of an alias in lists of models."""
KIND_BY_NAME = {
    "chat": Model.CHAT,
    "embedding": Model.EMBEDDING,
    "predictive": Model.PREDICTIVE,
    "reranker": Model.RERANKER,
    "moderation": Model.MODERATION,
}


class ModelNotFound(NotFound):
    """The model does not exist."""

    def __init__(self, model: str, existing: Mapping[str, object]) -> None:
        super().__init__(
            f"the model {model!r} does not exist; there are: {', '.join(existing) or 'none'}",
            code="model_not_found",
            param="model",
        )


class DeadlineSettings(Settings):
    """Time limits of a model in seconds. 0: the limit in the settings of serving."""

    connect_seconds: float = Field(default=0.0, ge=0, le=60)
    """To connect."""
    first_token_seconds: float = Field(default=0.0, ge=0, le=3600)
    """From the request to the first token."""
    between_tokens_seconds: float = Field(default=0.0, ge=0, le=3600)
    """From one token to the next."""
    total_seconds: float = Field(default=0.0, ge=0, le=3600)
    """For the complete answer, all attempts included."""


class SamplingSettings(Settings):
    """Default sampling parameters of a model, for requests without them. Unset: the default of the engine."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    """Randomness; 0 always selects the most likely token."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Select only from the most likely tokens that have this probability together."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Penalty of a token for each earlier occurrence."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Penalty of a token that occurred before."""
    repeat_penalty: float | None = Field(default=None, gt=0, le=2)
    """Only for llama.cpp: penalty of the last 64 tokens; 1 is none. Not applied to requests with a frequency or
    presence penalty."""


class ModelSettings(Settings):
    """One model: `[services.discovery.models.ID]`."""

    kind: Literal["chat", "embedding", "predictive", "reranker", "moderation"] = "chat"
    """The kind of the model. `predictive`: tensors in, tensors out, by the Open Inference Protocol; `reranker`: scores
    documents for a query, with the files of a cross-encoder (`onnx`) or at an upstream with `/rerank` (`openai`), such
    as vLLM, TEI, Jina and Cohere; `moderation`: its upstream has `/moderations`, as OpenAI."""
    engine: Literal["llama_cpp", "openai", "vertex", "onnx"]
    """The engine adapter. `onnx`: embedding and predictive models, and rerankers with a `folder`."""
    folder: str = ""
    """The folder with the files of the model, which serving runs: ONNX for predictive models and rerankers, or GGUF
    for `llama_cpp` in place of `base_url`."""
    memory_mib: int = Field(0, ge=0)
    """Memory limit of the process that runs `folder`, in MiB. 0: derived from the size of the files."""
    threads: int = Field(0, ge=0, le=256)
    """Processor threads of one inference of `folder`. 0: the setting of serving."""
    max_batch: int = Field(1, ge=1, le=4096)
    """Maximum rows of a predictive model that are processed together. 1: each request alone. Requests are joined only
    if inputs and outputs have a first dimension of one name, and rows do not affect each other."""
    max_batch_delay_ms: float = Field(0.0, ge=0, le=1000)
    """Maximum wait of a request for others to join its batch, in milliseconds."""
    base_url: str = ""
    """Base URL without `/chat/completions`: `https://...`, `http://...`, or `unix:/path`."""
    base_urls: tuple[str, ...] = Field((), max_length=MAX_REPLICAS)
    """The base URLs of several replicas, in place of `base_url`."""
    upstream_model: str = ""
    """The name of the model at the upstream. Empty: its id."""
    api_key_variable: str = ""
    """The environment variable with the API key of the upstream. A key is never a setting."""
    context_length: int = Field(0, ge=0)
    """Maximum tokens of prompt and answer together. 0: the limit of the upstream."""
    max_prompt_tokens: int = Field(0, ge=0)
    """Maximum tokens of a prompt; longer prompts are rejected. 0: the context length."""
    max_concurrent: int = Field(0, ge=0, le=10_000)
    """Maximum concurrent requests; further requests wait in the admission queue. 0: the default of the engine."""
    fallbacks: tuple[str, ...] = Field((), max_length=MAX_FALLBACKS)
    """Chat models that are tried in this order if this model fails."""
    deadlines: DeadlineSettings = DeadlineSettings()
    prefill: Literal["", "none", "assistant", "prefix", "continue_final_message"] = ""
    """How the model continues a partial answer of another model. `assistant`: it continues a last assistant message, as
    llama.cpp does; `prefix`: that message is marked with `prefix`, as for Mistral and DeepSeek;
    `continue_final_message`: the parameter of vLLM and SGLang; `none`: it cannot. Empty: the engine's default."""
    sampling: SamplingSettings = SamplingSettings()
    """Default sampling parameters, for requests without them."""
    affinity: Literal["none", "session", "prefix"] = "session"
    """Which requests go to the same replica, as far as its load allows. `session`: requests of one session; `prefix`:
    also requests whose prompts start with the same text; `none`: no affinity."""
    parameters: tuple[Parameter, ...] = Field((), max_length=50)
    """Parameters that are not OpenAI's and that the upstream supports, such as `top_k` of vLLM. They are passed on
    unchanged; all others are rejected."""
    reasoning: Literal["drop", "send"] = "drop"
    """Reasoning of earlier answers in `messages`. `send`: pass it to models that need it, as DeepSeek and Kimi do
    between tool calls; `drop`: remove it for models that reject it or read it as part of the prompt."""
    dimensions: int = Field(0, ge=0)
    """The vector length of an embedding model."""
    owned_by: str = ""
    """The owner of the model in `/v1/models`."""
    licence: str = ""
    """The licence of the model in `drw models`."""
    created: int = Field(0, ge=0)
    """The release of the model in Unix seconds. 0: when it was first configured here."""
    default: bool = False
    """Makes it the default chat model; overrides `default_model`."""

    @model_validator(mode="after")
    def _check_kind(self) -> ModelSettings:
        if self.kind == "predictive" or (self.kind == "reranker" and self.engine != "openai"):
            self._check_files()
        elif self.kind == "embedding":
            if self.folder:
                raise ValueError("the folder of an embedding model is a setting of the embedding service")
            if self.engine != "onnx":
                raise ValueError("an embedding model has engine = 'onnx'")
            if self.default:
                raise ValueError("only a chat model can be the default")
            if self.fallbacks:
                raise ValueError("an embedding model has no fallbacks: vectors of two models cannot be compared")
        elif self.kind in ("reranker", "moderation"):
            self._check_upstream_kind()
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
    def _check_sampling(self) -> ModelSettings:
        if self.sampling.repeat_penalty is not None and self.engine != "llama_cpp":
            raise ValueError("sampling.repeat_penalty needs engine = 'llama_cpp'; others have frequency_penalty")
        return self

    def description(self) -> dict[str, Any]:
        """Return what determines the answers of the model, without titles: a change of it is another version."""
        values = self.model_dump(mode="json", exclude={"base_url", "default", "owned_by", "licence", "created"})
        return values | {"base_urls": self.addresses()}

    def addresses(self) -> list[str]:
        """Return the base URL of each replica, without a slash at the end."""
        return [url.rstrip("/") for url in self.base_urls or (self.base_url,)]

    def _check_files(self) -> None:
        if self.engine != "onnx":
            engines = "'onnx' or 'openai'" if self.kind == "reranker" else "'onnx'"
            raise ValueError(f"a {self.kind} model has engine = {engines}")
        if not self.folder.startswith("/"):
            raise ValueError(
                f"folder is {self.folder!r}; a {self.kind} model needs an absolute path, as in '/srv/model'"
            )
        if self.default:
            raise ValueError("only a chat model can be the default")
        if self.base_url or self.base_urls:
            raise ValueError(f"a {self.kind} model has a folder, not a base_url")

    def _check_upstream_kind(self) -> None:
        if self.engine != "openai":
            raise ValueError(f"a {self.kind} model has engine = 'openai'")
        if self.default:
            raise ValueError("only a chat model can be the default")
        if self.parameters:
            raise ValueError(f"a {self.kind} model has no parameters: they are for chat models")
        if self.folder:
            raise ValueError(f"a {self.kind} model with engine = 'openai' has a base_url, not a folder")
        self._check_addresses()

    def _check_addresses(self) -> None:
        if self.folder:
            if self.engine != "llama_cpp" or not self.folder.startswith("/"):
                raise ValueError("folder of a chat model needs engine = 'llama_cpp' and an absolute path")
            if self.base_url or self.base_urls:
                raise ValueError("give folder or base_url, not both")
            return
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
    """All models and aliases. `first_seen` maps model ids to the Unix seconds of their first configuration.

    Raises:
        ConfigError: an id or a fallback is invalid, or the default model is ambiguous.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        default_model: str = "",
        aliases: Mapping[str, AliasSettings] | None = None,
        first_seen: Mapping[str, int] | None = None,
    ) -> None:
        for name in models:
            if not MODEL_ID.fullmatch(name):
                raise ConfigError(f"{name!r} cannot be the id of a model: letters, digits and ._:/@- only, at most 128")
            if identity.parse(name) is not None:
                raise ConfigError(f"{name!r} has the form of a registered version; a model needs another id")
        self._models = models
        self._first_seen = first_seen or {}
        self._default_model = _find_default(models, default_model)
        _check_fallbacks(models)
        kinds = {name: model.kind for name, model in models.items() if model.kind != "embedding"}
        self.aliases = Aliases(aliases or {}, kinds, models)

    @property
    def models(self) -> Mapping[str, ModelSettings]:
        """The configured models by id."""
        return self._models

    def digests(self, files: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the digest of each configured model: of its settings, and of its files if `files` has their digest."""
        return {
            name: endpoints.digest(
                settings.kind.upper(),
                settings.engine,
                settings.description() | ({"files": files[name]} if files and name in files else {}),
            )
            for name, settings in self._models.items()
        }

    def all(self) -> list[Model]:
        """Return the public description of each model, and of each alias of the platform."""
        models = [self._public_model(name) for name in self._models]
        return models + [self._public_alias(alias) for alias in self.aliases.all() if self.aliases.models(alias)]

    def get(self, name: str) -> Model:
        """Return the public description of a model or alias; an empty name means the default chat model."""
        if (alias := self.aliases.get(name)) and self.aliases.models(alias):
            return self._public_alias(alias)
        return self._public_model(self._model_id(name))

    def plan(self, name: str) -> Plan:
        """Return the candidates for the id of a model or the name of an alias.

        Models of an alias that no longer exist are omitted. An alias without existing models is ignored.
        """
        if (alias := self.aliases.get(name)) is None or not (available := self.aliases.models(alias)):
            resolved = self.resolve(name)
            fallbacks = [self.resolve(other) for other in resolved.fallbacks]
            return Plan(id=resolved.model.id, targets=[Target(model=resolved, weight=1)], fallbacks=fallbacks)
        weights = {target.model: target.weight for target in alias.targets}
        targets = [Target(model=self.resolve(m), weight=weights[m]) for m in available if m in weights]
        fallbacks = [self.resolve(m) for m in available if m not in weights]
        return Plan(id=name, targets=targets, fallbacks=fallbacks, total_seconds=alias.total_seconds)

    def resolve(self, name: str) -> ResolvedModel:
        """Return the replicas and settings of a model."""
        name = self._model_id(name)
        settings = self._models[name]
        return ResolvedModel(
            model=self._public_model(name),
            base_url=settings.addresses()[0],
            base_urls=settings.addresses(),
            upstream_model=settings.upstream_model or name,
            api_key_variable=settings.api_key_variable,
            max_prompt_tokens=settings.max_prompt_tokens,
            max_concurrent=settings.max_concurrent or MAX_CONCURRENT.get(settings.engine, DEFAULT_MAX_CONCURRENT),
            fallbacks=settings.fallbacks,
            deadlines=Deadlines(**settings.deadlines.model_dump()),
            prefill=settings.prefill or PREFILL.get(settings.engine, "none"),
            affinity=settings.affinity,
            parameters=settings.parameters,
            takes_reasoning=settings.reasoning == "send",
            sampling=settings.sampling.model_dump(exclude_none=True),
            permit=Permit(validation="settings"),
            folder=settings.folder,
            runtime=Runtime(
                memory_mib=settings.memory_mib,
                threads=settings.threads,
                max_batch=settings.max_batch,
                max_batch_delay_ms=settings.max_batch_delay_ms,
            ),
        )

    def _model_id(self, name: str) -> str:
        if not name and not self._default_model:
            raise ModelNotFound("", self._models)
        name = name or self._default_model
        if name not in self._models:
            raise ModelNotFound(name, {**self._models, **{alias.name: alias for alias in self.aliases.all()}})
        return name

    def _public_model(self, name: str) -> Model:
        settings = self._models[name]
        return Model(
            id=name,
            kind=KIND_BY_NAME[settings.kind],
            owned_by=settings.owned_by or settings.engine,
            created=settings.created or self._first_seen.get(name, 0),
            engine=settings.engine,
            context_length=settings.context_length,
            dimensions=settings.dimensions,
            default=name == self._default_model,
            licence=settings.licence,
            fallbacks=settings.fallbacks,
        )

    def _public_alias(self, alias: Alias) -> Model:
        models = self.aliases.models(alias)
        targets = [name for name in models if name not in alias.fallbacks]
        first = self._models[models[0]]
        return Model(
            id=alias.name,
            kind=KIND_BY_NAME[first.kind],
            owned_by=first.owned_by or first.engine,
            created=first.created or self._first_seen.get(models[0], 0),
            engine=ALIAS,
            # The minimum of all targets; failover skips a fallback with a smaller context.
            context_length=min((self._models[name].context_length for name in targets), default=0),
            targets=targets,
            fallbacks=[name for name in models if name in alias.fallbacks],
        )


def _check_fallbacks(models: Mapping[str, ModelSettings]) -> None:
    for name, model in models.items():
        others = [other for other, settings in models.items() if settings.kind == model.kind and other != name]
        for other in model.fallbacks:
            if other not in others:
                available = ", ".join(others) or "none"
                raise ConfigError(f"models.{name}.fallbacks has {other!r}; other {model.kind} models are: {available}")


def _find_default(models: Mapping[str, ModelSettings], default_model: str) -> str:
    """Return the id of the default chat model; empty if there is no chat model.

    A model's own `default = true` comes before `default_model`, so that an operator who adds a
    model in one line can make it the default in the same line.
    """
    chat_models = [name for name, model in models.items() if model.kind == "chat"]
    defaults = [name for name in chat_models if models[name].default]
    if len(defaults) > 1:
        raise ConfigError(f"only one model can have default = true; now {' and '.join(defaults)} have it")
    if defaults:
        return defaults[0]
    if default_model:
        if default_model not in chat_models:
            available = ", ".join(chat_models) or "none"
            raise ConfigError(f"discovery.default_model is {default_model!r}; the chat models are: {available}")
        return default_model
    if len(chat_models) > 1:
        raise ConfigError(f"discovery.default_model must name one of the chat models: {', '.join(chat_models)}")
    return chat_models[0] if chat_models else ""
