"""Candidate models of a request and their order."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from drw.api.models.v1.discovery_pb2 import Permit
from drw.billing.amounts import FREE, Price
from drw.kernel.errors import InvalidRequest
from drw.models.serving.errors import ContextLengthExceeded
from drw.models.serving.openai.requests import Completion, Sampling, prompts_of, unknown_parameter
from drw.models.serving.ports import NO_DEADLINE, Body, ChatEngine, CountedPrompt, Endpoint
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.load_balancing import Affinity, Replica, weighted_order

BYTES_PER_TOKEN = 64
"""A bound on the bytes of one token; text has about four. Longer prompts are rejected without counting."""


@dataclass(frozen=True, slots=True, eq=False)
class ChatModel:
    """One chat model with its engine, queue and replicas."""

    id: str
    upstream_model: str
    engine: ChatEngine
    engine_name: str
    queue: AdmissionQueue
    replicas: tuple[Replica, ...]
    context_length: int
    max_prompt_tokens: int
    total_seconds: float
    """Time limit of a complete answer; 0: the setting of serving."""
    prefill: str
    affinity: str
    parameters: frozenset[str] = frozenset()
    """Supported parameters that are not OpenAI's."""
    default_price: Price = FREE
    """The price of a registered version, unless the operator sets one."""
    takes_reasoning: bool = False
    """Whether the reasoning of earlier answers is sent to it."""

    @property
    def max_prompt_bytes(self) -> int:
        """Longer prompts are rejected without counting; 0: unlimited, since the context length is unknown."""
        return BYTES_PER_TOKEN * (self.max_prompt_tokens or self.context_length)

    def accepts_prompt(self, size: int) -> bool:
        """Return whether a prompt of this many bytes may fit."""
        return not self.max_prompt_bytes or size <= self.max_prompt_bytes

    def accepts_answer(self, tokens: int | None) -> bool:
        """Return whether an answer of this many tokens may fit."""
        return not tokens or not self.context_length or tokens <= self.context_length


@dataclass(frozen=True, slots=True, eq=False)
class CandidateList:
    """The candidate models for one name."""

    id: str
    """The id of the model or the name of the alias."""
    targets: tuple[tuple[ChatModel, int], ...]
    """Models with weights; the others are tried if the first one fails."""
    fallbacks: tuple[ChatModel, ...]
    total_seconds: float
    """Time limit of a complete answer; 0: the limit of the first model."""
    permits: Mapping[str, Permit] = field(default_factory=dict)
    """The permits of the models by id."""

    @property
    def models(self) -> tuple[ChatModel, ...]:
        """All candidates: targets, then fallbacks."""
        return *(model for model, _ in self.targets), *self.fallbacks

    def without(self, names: Container[str]) -> CandidateList:
        """Return the candidates without the models of these names."""
        targets = tuple(target for target in self.targets if target[0].id not in names)
        fallbacks = tuple(model for model in self.fallbacks if model.id not in names)
        return replace(self, targets=targets, fallbacks=fallbacks)

    def order(self, affinity: Affinity) -> tuple[ChatModel, ...]:
        """Return the models in the order of attempts for a request."""
        if len(self.targets) == 1:
            return self.targets[0][0], *self.fallbacks
        models = {model.id: model for model, _ in self.targets}
        names = weighted_order([(model.id, weight) for model, weight in self.targets], affinity.bucket)
        return *(models[name] for name in names), *self.fallbacks


class PromptCounts(NamedTuple):
    """The prompts of a request as one replica counted them."""

    replica: Replica
    prompts: Sequence[CountedPrompt]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request, independent of the model that answers it."""

    endpoint: Endpoint
    body: Body
    affinity: Affinity
    models: tuple[ChatModel, ...]
    """The candidates in the order of attempts."""
    stream: bool
    """Whether chunks are sent to the caller as they arrive; sent chunks cannot be revoked."""
    choices: int = 1
    max_tokens_param: str = "max_tokens"
    """The parameter that limits the answer."""
    max_tokens: int | None = None
    prompt_bytes: int = 0
    """Bytes of all texts of the prompt."""
    deadline: float = NO_DEADLINE
    """The deadline of the request in the event loop's time."""
    background: bool = False
    """Whether it waits for a slot behind all interactive requests."""
    prompt_counts: dict[str, PromptCounts] = field(default_factory=dict, compare=False)
    """The counted prompts of `body` by the id of the model."""

    def counted(self, model: ChatModel, body: Body, replica: Replica | None = None) -> Sequence[CountedPrompt]:
        """Return the counted prompts of a body; empty if they were not counted, or by another replica than this one."""
        counts = self.prompt_counts.get(model.id) if body is self.body else None
        return counts.prompts if counts and replica in (None, counts.replica) else ()


def eligible_models(
    request: Sampling, candidates: CandidateList, models: tuple[ChatModel, ...]
) -> tuple[ChatModel, ...]:
    """Return the models that support the request's extra parameters, and only the first model for token ids.

    Raises:
        InvalidRequest: no model does.
    """
    if isinstance(request, Completion) and not isinstance(prompts_of(request.prompt)[0], str):
        if len(candidates.targets) > 1:
            message = f"prompt has token ids, and each model behind {candidates.id!r} reads them by its own tokenizer"
            raise InvalidRequest(f"{message}: name one model, or send text", param="prompt")
        models = models[:1]
    if not (extra_parameters := request.extra_parameters.keys()):
        return models
    if supporting := tuple(model for model in models if extra_parameters <= model.parameters):
        return supporting
    raise unknown_parameter(type(request), min(extra_parameters - models[0].parameters), models[0].parameters)


def split_prompts(body: Body) -> list[Body]:
    """Return one request for each prompt."""
    prompts = prompts_of(body.get("prompt"))
    return [body] if len(prompts) == 1 else [{**body, "prompt": prompt} for prompt in prompts]


def prompt_bytes(body: Body) -> int:
    """Return the bytes of all texts of a request, or of its longest prompt; images do not count.

    Token ids count as `BYTES_PER_TOKEN` bytes.
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


def prompt_too_long(model: ChatModel, request: ModelRequest) -> ContextLengthExceeded:
    """Return the error for a prompt with too many bytes for a model."""
    max_tokens = model.max_prompt_tokens or model.context_length
    message = (
        f"the prompt has {request.prompt_bytes} bytes; {model.id!r} takes at most {max_tokens} tokens, "
        f"which are never more than {model.max_prompt_bytes} bytes here: shorten it"
    )
    return ContextLengthExceeded(message, "prompt" if request.endpoint == "completions" else "messages")


def check_prompt_bytes(request: ModelRequest) -> None:
    """Raise `ContextLengthExceeded` if the prompt has too many bytes for all candidates."""
    if not any(model.accepts_prompt(request.prompt_bytes) for model in request.models):
        raise prompt_too_long(max(request.models, key=lambda model: model.max_prompt_bytes), request)


def check_answer_length(models: tuple[ChatModel, ...], request: ModelRequest) -> None:
    """Raise `InvalidRequest` if more tokens are requested than the context of all models allows."""
    if not any(model.accepts_answer(request.max_tokens) for model in models):
        first = max(models, key=lambda model: model.context_length)
        message = (
            f"{request.max_tokens_param} is {request.max_tokens}; prompt and answer of {first.id!r} have "
            f"{first.context_length} tokens together"
        )
        raise InvalidRequest(message, param=request.max_tokens_param, code="invalid_value")
