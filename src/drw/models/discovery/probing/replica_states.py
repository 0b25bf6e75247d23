"""States of replicas: the results of the last probes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drw.api.models.v1.discovery_pb2 import ReplicaState, ResolvedModel
from drw.models.discovery.ports import ProbeAnswer

MAX_LISTED = 100
NOT_LISTED = (404, 405, 501)
"""Statuses of upstreams without a list of models: they answer, and nothing is known about their models."""
HEALTHY, UNREACHABLE, WRONG_MODEL = ReplicaState.HEALTHY, ReplicaState.UNREACHABLE, ReplicaState.WRONG_MODEL


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of one probe."""

    status: ReplicaState.Status
    checked_at: float
    """Unix seconds."""
    seconds: float = 0.0
    serves: tuple[str, ...] = ()
    error: str = ""


class ReplicaStates:
    """Results of the last probes, by base URL and upstream model."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], Probed] = {}

    def set(self, base_url: str, upstream_model: str, probed: Probed) -> bool:
        """Store a result; return whether its status is new. The first healthy result is nothing new."""
        before = self._states.get((base_url, upstream_model))
        self._states[base_url, upstream_model] = probed
        return probed.status != (before.status if before else HEALTHY)

    def keep(self, replicas: Iterable[tuple[str, str]]) -> None:
        """Forget all other replicas."""
        kept = set(replicas)
        self._states = {replica: state for replica, state in self._states.items() if replica in kept}

    def usable(self, urls: Sequence[str], upstream_model: str) -> list[str]:
        """Return the addresses without unhealthy replicas; all of them if none is known to be healthy."""
        unhealthy = (UNREACHABLE, WRONG_MODEL)
        usable = [url for url in urls if self._status(url, upstream_model) not in unhealthy]
        return usable or list(urls)

    def of(self, model: ResolvedModel, *, with_addresses: bool) -> list[ReplicaState]:
        """Return the states of all replicas of a model as messages."""
        states = []
        for number, url in enumerate(model.base_urls, 1):
            state = ReplicaState(name=short_address(url) if with_addresses else str(number))
            if (probed := self._states.get((url, model.upstream_model))) is not None:
                state.status, state.latency_seconds = probed.status, probed.seconds
                state.checked_at.FromNanoseconds(int(probed.checked_at * 1e9))
                if with_addresses:  # an upstream can serve models of others, too
                    state.serves.extend(probed.serves[:MAX_LISTED])
                    state.error = probed.error
            states.append(state)
        return states

    def wrong(self, model: ResolvedModel) -> list[str]:
        """Return a sentence for each replica of a model that answers and does not serve it."""
        return [
            f"{short_address(url)} answers and does not serve {model.upstream_model!r}"
            for url in model.base_urls
            if self._status(url, model.upstream_model) == WRONG_MODEL
        ]

    def _status(self, url: str, upstream_model: str) -> ReplicaState.Status:
        probed = self._states.get((url, upstream_model))
        return probed.status if probed else ReplicaState.STATUS_UNSPECIFIED


def judged(answer: ProbeAnswer, upstream_model: str, checked_at: float, seconds: float) -> Probed:
    """Return the result of a probe that was answered."""
    if answer.models is not None:
        if upstream_model in answer.models:
            return Probed(HEALTHY, checked_at, seconds, answer.models)
        listed = ", ".join(answer.models[:5]) or "nothing"
        error = f"it does not serve {upstream_model!r}; it serves {listed}"
        return Probed(WRONG_MODEL, checked_at, seconds, answer.models, error)
    if answer.status < 300 or answer.status in NOT_LISTED:
        return Probed(HEALTHY, checked_at, seconds)
    reason = "it rejects the platform's key" if answer.status in (401, 403) else "it is not ready"
    return Probed(UNREACHABLE, checked_at, seconds, error=f"{reason} (status {answer.status})")


def short_address(url: str) -> str:
    """Return an address without scheme, path and credentials."""
    if url.startswith("unix:"):
        return url.rpartition("/")[2]
    match = re.fullmatch(r"https?://(?:[^/@]*@)?([^/]+)(?:/.*)?", url)
    return match[1] if match else "?"
