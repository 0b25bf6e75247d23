"""Which models may answer a request, in which order."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from drw.kernel.errors import InvalidRequest
from drw.models.serving.balance import Affinity, Replica, by_weight
from drw.models.serving.line import Line
from drw.models.serving.ports import FOREVER, Body, ChatEngine, Endpoint


@dataclass(frozen=True, slots=True, eq=False)
class ChatModel:
    """One chat model, with all that a request needs."""

    id: str
    upstream_model: str
    engine: ChatEngine
    engine_name: str
    line: Line
    replicas: tuple[Replica, ...]
    context_length: int
    max_prompt_tokens: int
    total_seconds: float
    """For a whole answer; 0: as the settings have it."""
    prefill: str
    affinity: str

    def takes(self, tokens: int | None) -> bool:
        """Tell whether an answer may be so long."""
        return not tokens or not self.context_length or tokens <= self.context_length


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The models that may answer for one name."""

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

    def without(self, names: Container[str]) -> Plan:
        """Return the plan without the models of these names."""
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


@dataclass(frozen=True, slots=True)
class Asked:
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
    most_tokens: int | None = None
    end: float = FOREVER
    """Until when it goes on, whatever becomes of it, in the event loop's time."""


def check_length(models: tuple[ChatModel, ...], asked: Asked) -> None:
    """Raise where more tokens are asked for than any of the models has room for."""
    if not any(model.takes(asked.most_tokens) for model in models):
        first = max(models, key=lambda model: model.context_length)
        message = (
            f"{asked.param} is {asked.most_tokens}; prompt and answer of {first.id!r} have "
            f"{first.context_length} tokens together"
        )
        raise InvalidRequest(message, param=asked.param, code="invalid_value")
