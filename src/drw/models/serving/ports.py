"""Ports of engines: chat engines that stream OpenAI's chunks, loaders of model files, rerankers, moderation models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from drw.billing.usage import UsageUpdate
from drw.models.serving.errors import NotSupported
from drw.tensors.datatypes import Tensor, TensorSpec

MIB = 1 << 20

Endpoint = Literal["chat/completions", "completions"]
Body = dict[str, Any]
"""A validated request in OpenAI's format, without the parameters that serving sets (`model`, `stream`)."""
Chunk = dict[str, Any]
"""One event of OpenAI's streams, decoded."""


EngineEvent = tuple[Chunk, UsageUpdate]
"""One step of an answer: the chunk for the caller, and the usage for metering."""


class CountedPrompt(NamedTuple):
    """The length of one prompt in tokens, as the engine counts it."""

    tokens: int
    ids: Sequence[int] = ()
    """The token ids, if the engine accepts them in place of the text."""


PENALTIES = {"frequency_penalty", "presence_penalty"}
NO_DEADLINE = float("inf")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Time limits of a model in seconds. 0: the limit in the settings of the adapter."""

    connect: float = 0.0
    first_token: float = 0.0
    between_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Deadlines of one attempt, in the event loop's time. The deadlines of the model apply as well."""

    first_token: float = NO_DEADLINE
    deadline: float = NO_DEADLINE
    """The deadline of the request."""


UNLIMITED = EngineLimits()


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """One replica of a model: address, credentials and defaults."""

    model: str
    """Its id on this platform, for error messages."""
    base_url: str
    """`http(s)://...` or `unix:/path`, without a slash at the end."""
    upstream_model: str
    api_key_variable: str
    deadlines: Deadlines = Deadlines()
    sampling: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Default sampling parameters."""

    def with_sampling(self, body: Body) -> Body:
        """Return a request with the default sampling parameters; any penalty replaces the default repeat penalty."""
        defaults = dict(self.sampling)
        if not body.keys().isdisjoint(PENALTIES):
            defaults.pop("repeat_penalty", None)
        return {**defaults, **body}


class Tokens(NamedTuple):
    """The tokens of a text."""

    ids: Sequence[int]
    strings: Sequence[str] | None = None
    """The text of each token, if it was requested."""


def no_tokenizer(target: EngineTarget) -> NotSupported:
    """Return the error for an engine without an interface to its tokenizer."""
    return NotSupported("model", f"the engine of {target.model!r} does not expose its tokenizer")


class ChatEngine(ABC):
    """Runs chat models."""

    parameters: frozenset[str] = frozenset()
    """Supported parameters that are not OpenAI's, for all models of the engine."""

    @abstractmethod
    def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the answer as it comes; closing the generator stops the engine's work.

        `prompts` are the prompts of `body` as `count_prompt` of the same target returned them, if they were counted.

        Raises:
            EngineUnavailable: the engine does not answer (before the first chunk).
            ResponseTruncated: the response ended early or is malformed (after the first chunk).
            EngineStalled: the next token did not arrive in time.
            RequestTimedOut: the deadline of the request passed.
            EngineMisconfigured: the engine rejects the platform's credentials.
            InvalidRequest: the engine rejects the request; also `ContentFiltered` and `ContextLengthExceeded`.
            EngineLimited: the rate limit of the upstream is exceeded.
        """

    @abstractmethod
    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Count the tokens of the prompt; None if the engine reports them only with the answer."""

    async def tokenize(
        self, target: EngineTarget, endpoint: Endpoint, body: Body, *, special: bool, strings: bool
    ) -> Tokens:
        """Return the tokens of the prompt of a request with one prompt.

        Args:
            target: the replica.
            endpoint: the endpoint of the request.
            body: the request: `prompt` or `messages`.
            special: whether to add the special tokens of the model, such as its prefix token.
            strings: whether to return the text of each token.

        Raises:
            NotSupported: the engine cannot do this.
        """
        raise no_tokenizer(target)

    async def detokenize(self, target: EngineTarget, tokens: Sequence[int]) -> str:
        """Return the text of tokens; raises as `tokenize` does."""
        raise no_tokenizer(target)

    @abstractmethod
    async def check(self, target: EngineTarget) -> None:
        """Raise an error if the engine does not answer."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""


class FileReference(NamedTuple):
    """A file of a registered version: its path in the model, SHA-256 and size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that a loader can load. Equal specifications are the same loaded model."""

    id: str
    org: str
    """The org that owns the version; empty: the platform."""
    engine: str
    kind: Literal["chat", "predictive", "reranker"] = "predictive"
    digest: str = ""
    """The expected digest of the files; empty: of the settings, which do not name it."""
    folder: str = ""
    """The folder with the files of a model of the settings."""
    files: tuple[FileReference, ...] = ()
    """The files of a registered version."""
    memory_mib: int = 0
    """Memory limit of its process; 0: derived from the size of the files."""
    threads: int = 0
    """Threads of one inference; 0: the setting of the runtime."""
    max_batch: int = 1
    """Maximum rows of requests that are processed together; 1: each request alone."""
    max_batch_delay_seconds: float = 0.0
    """Maximum wait of a request for others to join its batch."""
    slots: int = 4
    """Concurrent requests of a chat model."""
    context_length: int = 0
    """Tokens of prompt and answer of a chat model."""

    @property
    def version(self) -> str:
        """The version of a registered model in the Open Inference Protocol: the first 12 digits of its digest."""
        return short_digest(self.digest)


def short_digest(digest: str) -> str:
    """Return the first 12 hexadecimal digits of a digest, which identify a version."""
    return digest.removeprefix("sha256:")[:12]


class LoadedModel(ABC):
    """A model in a process of its own. Its memory is freed when the process ends."""

    digest: str = ""
    """The digest of the files that were loaded."""
    address: str = ""
    """`unix:/path` of its OpenAI-compatible API; empty: it processes tensors."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batchable: bool = False
    """Whether requests can be joined along the first dimension without changing their results."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the process runs."""

    @abstractmethod
    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> tuple[Tensor, ...]:
        """Return the outputs of these names, or all outputs.

        Raises:
            InvalidRequest: the model rejects the inputs.
            EngineUnavailable: the process ended.
        """

    @abstractmethod
    async def check(self) -> int:
        """Return the resident bytes of the process.

        Raises:
            EngineUnavailable: the process does not answer.
        """

    @abstractmethod
    async def close(self) -> None:
        """End the process and wait for its end."""


class ModelLoader(ABC):
    """Loads models of one engine."""

    @abstractmethod
    async def load(self, spec: ModelSpec, path: Path, memory_mib: int) -> LoadedModel:
        """Start the process of a model and warm it up. A cancelled load leaves no process behind.

        Args:
            path: the folder with its files.
            memory_mib: the memory limit of the process.

        Raises:
            ModelLoadFailed: the files are not a model that this engine can run, or the process ended.
        """

    def memory_mib(self, spec: ModelSpec, path: Path) -> int:
        """Return the memory that the process of a model usually needs, in addition to that of the engine itself.

        Three times the size of its files: as they are read, as tensors, and as the engine arranges them.

        Raises:
            ModelLoadFailed: the files are not a model that this engine can run.
        """
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return 3 * sum(file.stat().st_size for file in files) // MIB


class Reranker(ABC):
    """Scores documents for a query with a cross-encoder."""

    @abstractmethod
    async def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return the relevance of each document, from 0 to 1.

        Raises:
            InvalidRequest: there are too many documents.
            Unavailable: the model is not loaded or does not answer.
        """


class Ranking(NamedTuple):
    """The relevance of documents for a query."""

    scores: Sequence[float]
    """One score for each document, in the order of the documents; higher is more relevant."""
    tokens: int | None
    """The tokens that the engine has read; None: it does not report them."""


class RerankEngine(ABC):
    """Scores documents for a query at an address."""

    @abstractmethod
    async def rank(self, target: EngineTarget, query: str, documents: Sequence[str]) -> Ranking:
        """Return the scores of the documents.

        Raises:
            EngineUnavailable: the engine does not answer.
            ResponseTruncated: the answer is malformed, or lacks a document.
            InvalidRequest: the engine rejects the request, for example because a document is too long.
            EngineLimited: the rate limit of the upstream is exceeded.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""


class Moderator(ABC):
    """Classifies texts by categories of harm."""

    @abstractmethod
    async def moderate(self, target: EngineTarget, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return one result of OpenAI's Moderations API for each input: a text, or a list of OpenAI's content parts.

        Raises what `RerankEngine.rank` raises.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
