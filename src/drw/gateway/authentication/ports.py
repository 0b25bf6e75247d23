"""Port of the authentication service: the source of the key sets of issuers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """A JSON Web Key Set with its cache time in seconds."""

    jwks: str
    max_age: int


class KeySetSource(ABC):
    """Fetches the key sets of issuers."""

    @abstractmethod
    async def fetch(self, uri: str) -> FetchedKeys:
        """Return the key set at a URI.

        Raises:
            InvalidRequest: the platform does not fetch from this URI, or the response is not a key set.
            Unavailable: no valid response came in time. Only the log has the reason, so that callers cannot use URIs to
                scan hosts and ports.
        """
