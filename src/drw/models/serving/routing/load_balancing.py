"""Load balancing across the replicas of a model: least outstanding requests, or affinity to a session or prompt prefix.

Affinity is rendezvous hashing (Thaler and Ravishankar 1998) with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
"Consistent Hashing with Bounded Loads", 2016): the request goes to the replica with the highest score whose load is
within the bound.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from drw.kernel.rpc import context
from drw.models.serving.openai.requests import prompts_of
from drw.models.serving.ports import Body, EngineTarget
from drw.models.serving.routing.circuit_breaker import CircuitBreaker

LOAD_BOUND = 1.25
"""Maximum outstanding requests of a replica with affinity, relative to the mean."""
PREFIX_CHARACTERS = 1024
"""Prompts with the same first characters share a replica, and so its prefix cache."""


class Signals:
    """Passive signals of a replica: the outcomes of its requests. Times are those of the event loop."""

    __slots__ = ("checked_at", "error", "failed", "progress_at", "succeeded", "waiting_since")

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.error = ""
        """The class of the error of the last failure."""
        self.progress_at = -math.inf
        """When it last sent a token."""
        self.waiting_since = -math.inf
        """When it last received a request while it had no other."""
        self.checked_at = -math.inf
        """When it last answered a health check."""

    def is_stalled(self, now: float, seconds: float) -> bool:
        """Return whether its requests wait without a token for this time, if it has any."""
        return now - max(self.waiting_since, self.progress_at) >= seconds

    def success(self, now: float) -> None:
        """Record a complete answer."""
        self.succeeded += 1
        self.progress_at = now

    def failure(self, error: str) -> None:
        """Record a failure of the upstream."""
        self.failed += 1
        self.error = error


class Replica:
    """One address at which a model is served."""

    __slots__ = (
        "circuit",
        "rate_limited",
        "count_backoff_until",
        "name",
        "outstanding",
        "backoff_until",
        "signals",
        "target",
    )

    def __init__(self, name: str, target: EngineTarget, circuit: CircuitBreaker) -> None:
        self.name = name
        """A short form of its address for records and metrics."""
        self.target = target
        self.circuit = circuit
        self.signals = Signals()
        self.outstanding = 0
        self.backoff_until = 0.0
        """Until then it receives no requests, because of a `Retry-After` of the upstream."""
        self.rate_limited = False
        """Whether the backoff is because of a rate limit, not a failure."""
        self.count_backoff_until = 0.0
        """Until then it is not used to count tokens."""

    @property
    def ready_at(self) -> float:
        """When it accepts the next request; in the past if now."""
        return max(self.circuit.ready_at, self.backoff_until)


@dataclass(frozen=True, slots=True)
class Affinity:
    """The affinity of a request: its session, or the prefix of its prompt."""

    owner: str
    """The tenant and key of the caller; sessions of different owners are never equal."""
    session: str
    body: Body

    @property
    def bucket(self) -> str:
        """The unit of weighted routing: a session, or all requests of a key."""
        return f"{self.owner}/{self.session}"

    def key(self, mode: str) -> str:
        """Return the hash key for a model with this affinity mode; empty: no affinity."""
        if mode == "none":
            return ""
        if self.session:
            return self.bucket
        return f"{self.owner}/{_prompt_prefix(self.body)}" if mode == "prefix" else ""


def session_owner() -> str:
    """Return the owner of the present caller's sessions: org, desk, walls and key."""
    principal = context.caller_or_none()
    return f"{principal.org}/{principal.desk}/{','.join(sorted(principal.walls))}/{principal.key}" if principal else ""


def choose_replica(ready: Sequence[Replica], key: str, random: Random) -> Replica:
    """Return the replica for a request: by its affinity key, or the least busy one if the key is empty."""
    if len(ready) == 1:
        return ready[0]
    if not key:
        least = min(replica.outstanding for replica in ready)
        return random.choice([replica for replica in ready if replica.outstanding == least])
    max_outstanding = math.ceil(LOAD_BOUND * (sum(replica.outstanding for replica in ready) + 1) / len(ready))
    ranked = sorted(ready, key=lambda replica: score(key, replica.target.base_url), reverse=True)
    return next(replica for replica in ranked if replica.outstanding < max_outstanding)


def weighted_order(weights: Collection[tuple[str, int]], key: str) -> list[str]:
    """Return names in the order of weighted rendezvous hashing: each is first for its share of the keys.

    A change of a weight moves only the affected keys. Names with weight 0 come last.
    """
    return [name for name, _ in sorted(weights, key=lambda item: _weighted_score(key, *item), reverse=True)]


def score(key: str, name: str) -> float:
    """Return a deterministic pseudo-random number above 0 and below 1."""
    number = int.from_bytes(blake2b(f"{key}\n{name}".encode(errors="replace"), digest_size=8).digest(), "big")
    return ((number >> 12) + 0.5) / 2**52  # 52 bits and a half are exact in a float


def _weighted_score(key: str, name: str, weight: int) -> float:
    return -weight / math.log(score(key, name)) if weight else 0.0


def _prompt_prefix(body: Body) -> str:
    """Return the first characters of the prompt, including roles.

    Messages after the first question are ignored, so that a conversation stays at its replica as it grows.
    """
    remaining, texts = PREFIX_CHARACTERS, []
    if "prompt" in body:
        return str(prompts_of(body["prompt"])[0][:remaining])
    for message in body.get("messages", ()):
        content = message.get("content") or ()
        content_text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        text = f"{message['role']}:{content_text}\n"[:remaining]
        texts.append(text)
        if message["role"] == "user" or (remaining := remaining - len(text)) <= 0:
            break
    return "".join(texts)
