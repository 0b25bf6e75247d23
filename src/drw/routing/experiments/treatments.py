"""Treatments of arms: model, sampling parameters, system prompt and retrieval settings of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drw.api.models.v1.experiments_pb2 import Parameters, Treatment
from drw.routing.experiments.retrieval_settings import UNCHANGED, SearchSettings

Body = dict[str, Any]
SYSTEM_ROLES = ("system", "developer")
LENGTH_PARAMETERS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class CallTreatment:
    """What an arm changes in a call."""

    model: str = ""
    """The model that answers; empty: the models of the alias."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    system_prompt: str = ""
    replace_system_prompt: bool = False
    search: SearchSettings = UNCHANGED
    message: Treatment = field(default_factory=Treatment)
    """The treatment in the contract, for another service that applies it."""

    @classmethod
    def of(cls, treatment: Treatment) -> CallTreatment:
        """Return the treatment of a message of the contract."""
        parameters = _parameters(treatment.parameters)
        return cls(
            treatment.model,
            parameters,
            treatment.parameters.max_tokens if treatment.parameters.HasField("max_tokens") else None,
            treatment.system_prompt,
            treatment.replace_system_prompt,
            SearchSettings.of(treatment.retrieval) if treatment.HasField("retrieval") else UNCHANGED,
            treatment,
        )

    @property
    def chat_only(self) -> bool:
        """Whether it needs the messages and parameters of a chat."""
        return bool(self.system_prompt or self.parameters or self.max_tokens)

    def apply(self, body: Body, length_parameter: str) -> Body:
        """Return the body of a chat under this treatment. `length_parameter` limits the length of its answer."""
        if not self.chat_only:
            return body
        changed = {**body, **self.parameters}
        if self.max_tokens:
            changed[length_parameter] = min(self.max_tokens, body.get(length_parameter) or self.max_tokens)
        if self.system_prompt:
            changed["messages"] = self._messages(body["messages"])
        return changed

    def _messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.replace_system_prompt:
            messages = [message for message in messages if message["role"] not in SYSTEM_ROLES]
        elif messages[0]["role"] in SYSTEM_ROLES and isinstance(messages[0]["content"], str):
            # One message: some chat templates reject two system messages.
            joined = f"{self.system_prompt}\n\n{messages[0]['content']}"
            return [messages[0] | {"content": joined}, *messages[1:]]
        return [{"role": "system", "content": self.system_prompt}, *messages]


def _parameters(parameters: Parameters) -> dict[str, Any]:
    names = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
    values: dict[str, Any] = {name: getattr(parameters, name) for name in names if parameters.HasField(name)}
    if parameters.stop:
        values["stop"] = list(parameters.stop)
    if parameters.reasoning_effort:
        values["reasoning_effort"] = parameters.reasoning_effort
    return values
