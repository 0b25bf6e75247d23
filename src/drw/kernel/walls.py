"""Information barriers: a caller sees an object only if it is inside all of the object's walls.

Each store enforces this rule in SQL with a function named `inside`. This module has the same rule for objects outside
of tables, and the rule for the walls of new objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from drw.kernel.errors import Forbidden
from drw.kernel.rpc.context import Principal

MAX_WALLS = 100
"""Maximum number of walls of an object, the same as of an org."""


def inside(walls: Iterable[str], principal: Principal) -> bool:
    """Return whether a caller can see an object with these walls."""
    return principal.walls.issuperset(walls)


def for_new_object(requested: Collection[str], principal: Principal) -> list[str]:
    """Return the walls of an object that a caller creates, sorted. Default: all walls of the caller.

    A caller inside walls can therefore never create an object outside of all of them.

    Raises:
        Forbidden: the caller is outside of a requested wall.
    """
    if outside := sorted(set(requested) - principal.walls):
        message = f"the key {principal.key!r} is outside the wall {outside[0][:64]!r}; it can set only its own walls"
        raise Forbidden(message, param="walls")
    return sorted(set(requested) or principal.walls)
