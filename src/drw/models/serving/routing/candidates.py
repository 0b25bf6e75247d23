"""Which models may answer a request, in which order."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from drw.kernel.errors import InvalidRequest
from drw.models.serving.errors import ContextLengthExceeded
from drw.models.serving.openai.requests import Completion, Sampling, prompts_of, unknown
from drw.models.serving.ports import FOREVER, Body, ChatEngine, CountedPrompt, Endpoint
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.load_balancing import Affinity, Replica, by_weight

BYTES_PER_TOKEN = 64
"""A prompt with more bytes for each token that the model takes is too long whatever it says: text has about four."""


@dataclass(frozen=True, slots=True, eq=False)
class ChatModel:
    """One chat model, with all that a request needs."""

    id: str
    upstream_model: str
    engine: ChatEngine
    engine_name: str
    queue: AdmissionQueue
    replicas: tuple[Replica, ...]
    context_length: int
    max_prompt_tokens: int
    total_seconds: float
    """For a whole answer; 0: as the settings have it."""
    prefill: str
    affinity: str
    parameters: frozenset[str] = frozenset()
    """Parameters that are not OpenAI's and that it takes."""
    takes_reasoning: bool = False
    """Whether the reasoning of earlier answers is sent to it."""

    @property
    def max_prompt_bytes(self) -> int:
        """Longer prompts are refused before they are counted; 0: where it is not known how many tokens it takes."""
        return BYTES_PER_TOKEN * (self.max_prompt_tokens or self.context_length)

    def reads(self, size: int) -> bool:
        """Tell whether a prompt of so many bytes may fit."""
        return not self.max_prompt_bytes or size <= self.max_prompt_bytes

    def takes(self, tokens: int | None) -> bool:
        """Tell whether an answer may be so long."""
        return not tokens or not self.context_length or tokens <= self.context_length


@dataclass(frozen=True, slots=True, eq=False)
class CandidateList:
    """The candidate models for one name."""

    id: str
    """The model's or the alias's."""
    targets: tuple[tuple[ChatModel, int], ...]
    """One of them answers, by weight; another one where that fails."""
    fallbacks: tuple[ChatModel, ...]
    total_seconds: float
    """For a whole answer, whoever gives it; 0: as the first model has it."""

    @property
    def models(self) -> tuple[ChatModel, ...]:
        """All of them."""
        return *(model for model, _ in self.targets), *self.fallbacks

    def without(self, names: Container[str]) -> CandidateList:
        """Return the candidates without the models of these names."""
        targets = tuple(target for target in self.targets if target[0].id not in names)
        fallbacks = tuple(model for model in self.fallbacks if model.id not in names)
        return replace(self, targets=targets, fallbacks=fallbacks)

    def order(self, affinity: Affinity) -> tuple[ChatModel, ...]:
        """Return the models in the order in which this request tries them."""
        if len(self.targets) == 1:
            return self.targets[0][0], *self.fallbacks
        models = {model.id: model for model, _ in self.targets}
        names = by_weight([(model.id, weight) for model, weight in self.targets], affinity.unit)
        return *(models[name] for name in names), *self.fallbacks


class PromptCounts(NamedTuple):
    """The prompts of a request as one replica counted them."""

    replica: Replica
    prompts: Sequence[CountedPrompt]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request, as it goes to whichever model answers."""

    endpoint: Endpoint
    body: Body
    affinity: Affinity
    models: tuple[ChatModel, ...]
    """Those that may come to answer it, in the order in which they are tried."""
    live: bool
    """Whether the caller gets the answer piece by piece: what has been sent cannot be called back."""
    choices: int = 1
    param: str = "max_tokens"
    """The field that bounds the answer."""
    max_tokens: int | None = None
    prompt_bytes: int = 0
    """Of the texts that the model reads."""
    end: float = FOREVER
    """Until when it goes on, whatever becomes of it, in the event loop's time."""
    prompt_counts: dict[str, PromptCounts] = field(default_factory=dict, compare=False)
    """The counted prompts of `body` by the id of the model."""

    def counted(self, model: ChatModel, body: Body, replica: Replica | None = None) -> Sequence[CountedPrompt]:
        """Return the counted prompts of a body; empty if they were not counted, or by another replica than this one."""
        counts = self.prompt_counts.get(model.id) if body is self.body else None
        return counts.prompts if counts and replica in (None, counts.replica) else ()


def answerable(request: Sampling, candidates: CandidateList, models: tuple[ChatModel, ...]) -> tuple[ChatModel, ...]:
    """Return the models that take what only some do: parameters that are not OpenAI's, and tokens in place of texts.

    Raises:
        InvalidRequest: none does.
    """
    if isinstance(request, Completion) and not isinstance(prompts_of(request.prompt)[0], str):
        if len(candidates.targets) > 1:
            message = f"prompt has token ids, and each model behind {candidates.id!r} reads them by its own tokenizer"
            raise InvalidRequest(f"{message}: name one model, or send text", param="prompt")
        models = models[:1]
    if not (further := request.further.keys()):
        return models
    if takers := tuple(model for model in models if further <= model.parameters):
        return takers
    raise unknown(type(request), min(further - models[0].parameters), models[0].parameters)


def split(body: Body) -> list[Body]:
    """Return the request once for each of its prompts."""
    prompts = prompts_of(body.get("prompt"))
    return [body] if len(prompts) == 1 else [{**body, "prompt": prompt} for prompt in prompts]


def prompt_bytes(body: Body) -> int:
    """Return the bytes of every text in a request that a model reads at once; pictures do not count.

    Tokens count with as many bytes as a token can have.
    """
    prompts = prompts_of(body.get("prompt") or "")
    if not isinstance(prompts[0], str):
        return BYTES_PER_TOKEN * max(map(len, prompts))
    texts = [max(prompts, key=len)]
    for message in body.get("messages", ()):
        content = message.get("content") or ""
        parts = [{"text": content}] if isinstance(content, str) else content
        texts += [part.get("text") or part.get("refusal") or "" for part in parts]
        texts += [message.get(name) or "" for name in ("reasoning_content", "reasoning")]
        texts += [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    texts += [tool["function"].get("description") or "" for tool in body.get("tools") or ()]
    return sum(len(text.encode(errors="replace")) for text in texts)


def too_long(model: ChatModel, request: ModelRequest) -> ContextLengthExceeded:
    """Return the error for a prompt that is too long for a model by its bytes alone."""
    max_tokens = model.max_prompt_tokens or model.context_length
    message = (
        f"the prompt has {request.prompt_bytes} bytes; {model.id!r} takes at most {max_tokens} tokens, "
        f"which are never more than {model.max_prompt_bytes} bytes here: shorten it"
    )
    return ContextLengthExceeded(message, "prompt" if request.endpoint == "completions" else "messages")


def check_prompt(request: ModelRequest) -> None:
    """Raise where a prompt is too long for each of the models that may answer, before anybody counts it."""
    if not any(model.reads(request.prompt_bytes) for model in request.models):
        raise too_long(max(request.models, key=lambda model: model.max_prompt_bytes), request)


def check_length(models: tuple[ChatModel, ...], request: ModelRequest) -> None:
    """Raise where more tokens are requested than any of the models has room for."""
    if not any(model.takes(request.max_tokens) for model in models):
        first = max(models, key=lambda model: model.context_length)
        message = (
            f"{request.param} is {request.max_tokens}; prompt and answer of {first.id!r} have "
            f"{first.context_length} tokens together"
        )
        raise InvalidRequest(message, param=request.param, code="invalid_value")
