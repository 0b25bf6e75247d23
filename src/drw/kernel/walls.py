"""Information barriers: a caller sees an object only from inside all of the object's walls.

Stores enforce it in SQL, by one function each, named `inside`; this is the same rule for what is not in a table, and
the rule for the walls of new objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal

MAX_WALLS = 100
"""As many as an org may have; more can never all be held."""


def inside(walls: Iterable[str], principal: Principal) -> bool:
    """Return whether a caller may see an object with these walls."""
    return principal.walls.issuperset(walls)


def of_new(given: Collection[str], principal: Principal) -> list[str]:
    """Return the walls of an object that a caller makes, sorted: those it gives, or else all that it stands inside of.

    What is made inside walls can thus never be put outside of all of them.

    Raises:
        Forbidden: the caller stands outside one of the given.
        InvalidRequest: too many are given.
    """
    if len(given) > MAX_WALLS:
        raise InvalidRequest(f"{len(given)} walls; at most {MAX_WALLS}", param="walls")
    if outside := sorted(set(given) - principal.walls):
        message = f"the key {principal.key!r} stands outside the wall {outside[0][:64]!r}; it can give only its own"
        raise Forbidden(message, param="walls")
    return sorted(set(given) or principal.walls)
