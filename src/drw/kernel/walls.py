"""Information barriers: a caller sees an object only from inside all of the object's walls.

Stores enforce it in SQL, by one function each, named `inside`; this is the same rule for what is not in a table, and
the rule for the walls of new objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from drw.kernel.errors import Forbidden
from drw.kernel.rpc.context import Principal

MAX_WALLS = 100
"""Maximum number of walls, as of an org."""


def inside(walls: Iterable[str], principal: Principal) -> bool:
    """Return whether a caller can see an object with these walls."""
    return principal.walls.issuperset(walls)


def of_new(given: Collection[str], principal: Principal) -> list[str]:
    """Return the walls of an object that a caller creates, sorted: the given ones, or else all walls of the caller.

    An object created inside walls can thus never be outside of all of them.

    Raises:
        Forbidden: the caller is outside of a given wall.
    """
    if outside := sorted(set(given) - principal.walls):
        message = f"the key {principal.key!r} is outside the wall {outside[0][:64]!r}; it can give only its own"
        raise Forbidden(message, param="walls")
    return sorted(set(given) or principal.walls)
