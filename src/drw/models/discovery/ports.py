"""The port to the replicas of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """One replica to probe."""

    engine: str
    base_url: str
    """`http(s)://...` or `unix:/path`, without a slash at the end."""
    upstream_model: str
    api_key_variable: str


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer of a replica."""

    status: int
    """The HTTP status."""
    models: tuple[str, ...] | None
    """The ids of the models that it serves; None: it does not list them."""


class ProbeFailed(Exception):
    """The replica does not answer; the text says why, without credentials."""


class EndpointProbe(ABC):
    """Asks replicas which models they serve."""

    @abstractmethod
    async def ask(self, replica: ReplicaAddress) -> ProbeAnswer:
        """Ask a replica.

        Raises:
            ProbeFailed: it does not answer in time, or the answer is malformed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
