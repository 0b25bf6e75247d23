"""What the authentication service needs from outside: the key sets of other issuers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """A JSON Web Key Set, and for how many seconds it need not be fetched again."""

    jwks: str
    max_age: int


class KeySetSource(ABC):
    """Fetches the key sets of issuers."""

    @abstractmethod
    async def fetch(self, uri: str) -> FetchedKeys:
        """Return the key set at a URI.

        Raises:
            InvalidRequest: the platform does not fetch from this URI, or the response is not a key set.
            Unavailable: no response came in time. The log alone says why, so that a caller who names a URI does not
                learn which hosts and ports exist.
        """
