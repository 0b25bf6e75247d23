"""Which of a model's places takes a request: the least busy one, or the one that knows its session or prompt.

Affinity is rendezvous hashing (Thaler and Ravishankar 1998) with bounded load (Mirrokni, Thorup and
Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016): the place with the highest score takes the
request unless it has more than its share of those under way; then the next highest does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

from drw.kernel.rpc import context
from drw.models.serving.openai.requests import prompts_of
from drw.models.serving.ports import Body, EngineTarget
from drw.models.serving.routing.circuit_breaker import CircuitBreaker

LOAD_BOUND = 1.25
"""How much more than the mean a place may have under way before affinity gives way."""
PREFIX_CHARACTERS = 1024
"""Prompts whose beginning agrees in so many characters share what the engine keeps of them."""


class Replica:
    """One place where a model answers."""

    __slots__ = ("circuit", "limited", "mute_until", "name", "outstanding", "rests_until", "target")

    def __init__(self, name: str, target: EngineTarget, circuit: CircuitBreaker) -> None:
        self.name = name
        """Its address in short, for records and metrics."""
        self.target = target
        self.circuit = circuit
        self.outstanding = 0
        self.rests_until = 0.0
        """Until then its upstream wants no requests, by its `Retry-After`."""
        self.limited = False
        """Whether that is because of a limit, and not because it has failed."""
        self.mute_until = 0.0
        """Until then it is not asked to count prompts."""

    @property
    def ready_at(self) -> float:
        """When it takes the next request; in the past where it would now."""
        return max(self.circuit.ready_at, self.rests_until)


@dataclass(frozen=True, slots=True)
class Affinity:
    """What ties requests together: the session that the caller names, or how the prompt begins."""

    owner: str
    """The tenant and the key that ask: no caller can land among another's by naming the same session."""
    session: str
    body: Body

    @property
    def unit(self) -> str:
        """What is split by weight as one: a session, or else all that a key asks."""
        return f"{self.owner}/{self.session}"

    def key(self, kind: str) -> str:
        """Return what chooses among places of a model with this affinity; empty: anything."""
        if kind == "none":
            return ""
        if self.session:
            return self.unit
        return f"{self.owner}/{_beginning(self.body)}" if kind == "prefix" else ""


def owner() -> str:
    """Return whose sessions the present request's are: a tenant's, and within it a key's."""
    principal = context.caller_or_none()
    return f"{principal.org}/{principal.desk}/{','.join(sorted(principal.walls))}/{principal.key}" if principal else ""


def pick(ready: Sequence[Replica], key: str, random: Random) -> Replica:
    """Return the place that takes a request, out of those that are ready; an empty key means the least busy."""
    if len(ready) == 1:
        return ready[0]
    if not key:
        least = min(replica.outstanding for replica in ready)
        return random.choice([replica for replica in ready if replica.outstanding == least])
    max_outstanding = math.ceil(LOAD_BOUND * (sum(replica.outstanding for replica in ready) + 1) / len(ready))
    ranked = sorted(ready, key=lambda replica: score(key, replica.target.base_url), reverse=True)
    return next(replica for replica in ranked if replica.outstanding < max_outstanding)


def by_weight(weights: Collection[tuple[str, int]], key: str) -> list[str]:
    """Return names in an order in which each is first for its share of keys; those without weight come last.

    A change of one weight moves only the keys that the change is about (weighted rendezvous hashing).
    """
    return [name for name, _ in sorted(weights, key=lambda item: _weighted(key, *item), reverse=True)]


def score(key: str, name: str) -> float:
    """Return a number above 0 and below 1 that looks random, and is the same each time."""
    number = int.from_bytes(blake2b(f"{key}\n{name}".encode(errors="replace"), digest_size=8).digest(), "big")
    return ((number >> 12) + 0.5) / 2**52  # as many bits as a float holds with the half


def _weighted(key: str, name: str, weight: int) -> float:
    return -weight / math.log(score(key, name)) if weight else 0.0


def _beginning(body: Body) -> str:
    """Return the first characters of the prompt, with the roles that templates put between messages.

    What follows the first question does not count, so that a conversation keeps its place as it grows.
    """
    left, texts = PREFIX_CHARACTERS, []
    if "prompt" in body:
        return str(prompts_of(body["prompt"])[0][:left])
    for message in body.get("messages", ()):
        text = f"{message['role']}:{_text(message.get('content'))}\n"[:left]
        texts.append(text)
        if message["role"] == "user" or (left := left - len(text)) <= 0:
            break
    return "".join(texts)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
