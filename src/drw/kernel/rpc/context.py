"""Request context: the principal and the deadline, set at the edge and propagated to every service."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from drw.api.kernel.v1 import kernel_pb2
from drw.kernel.errors import DeadlineExceeded, Forbidden, Unauthenticated
from drw.kernel.scopes import SCOPES as SCOPES

MAX_ID = 200
"""Maximum length of a caller's id, such as "oidc:", an issuer of 32 characters, ":" and a subject of 128."""

ANY_SCOPE = "*"
"""The scope of methods that any authenticated caller can call."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a key of a desk of an org, with scopes and information barriers (walls)."""

    org: str
    desk: str
    key: str
    scopes: frozenset[str] = frozenset()
    walls: frozenset[str] = frozenset()

    def require_scope(self, *scopes: str) -> None:
        """Raise `Forbidden` if the key has none of these scopes."""
        if self.scopes.isdisjoint(scopes):
            alternatives = " or ".join(repr(scope) for scope in scopes)
            raise Forbidden(f"the key {self.key!r} lacks the scope {alternatives}", scope=scopes[0])

    def to_wire(self) -> bytes:
        """Serialise the caller for a call to another process."""
        return kernel_pb2.Caller(
            org=self.org, desk=self.desk, key=self.key, scopes=sorted(self.scopes), walls=sorted(self.walls)
        ).SerializeToString()

    @classmethod
    def from_wire(cls, data: bytes) -> Principal:
        """Parse the output of `to_wire`."""
        message = kernel_pb2.Caller.FromString(data)
        return cls(message.org, message.desk, message.key, frozenset(message.scopes), frozenset(message.walls))

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Principal | None:
        """Read the headers that the data plane sets from a verified key; None without a key."""
        if not (key := headers.get("x-drw-key")):
            return None
        scopes, walls = (frozenset(headers.get(f"x-drw-{name}", "").split()) for name in ("scopes", "walls"))
        return cls(headers.get("x-drw-org", ""), headers.get("x-drw-desk", ""), key, scopes, walls)


_caller: ContextVar[Principal | None] = ContextVar("caller", default=None)
_event_depth: ContextVar[int] = ContextVar("event_depth", default=0)
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def caller() -> Principal:
    """Return the principal of the current request.

    Raises:
        Unauthenticated: the request has no principal.
    """
    if (principal := _caller.get()) is None:
        raise Unauthenticated("this request carries no key")
    return principal


def caller_or_none() -> Principal | None:
    """Return the principal of the current request, or None."""
    return _caller.get()


@contextmanager
def acting_for(principal: Principal | None) -> Iterator[None]:
    """Set the principal of the block."""
    token = _caller.set(principal)
    try:
        yield
    finally:
        _caller.reset(token)


def event_depth() -> int:
    """Return how many runs that an event started led to this request, one by another; 0: none."""
    return _event_depth.get()


@contextmanager
def at_event_depth(depth: int) -> Iterator[None]:
    """Set the event depth of the block. Events and runs of the block have it too, so that no loop is endless."""
    token = _event_depth.set(depth)
    try:
        yield
    finally:
        _event_depth.reset(token)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Set the deadline of the block; an earlier deadline takes precedence."""
    current = _deadline.get()
    requested = None if seconds is None else time.monotonic() + seconds
    earliest = min((d for d in (current, requested) if d is not None), default=None)
    token = _deadline.set(earliest)
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left() -> float | None:
    """Return the seconds until the deadline; None without one.

    Raises:
        DeadlineExceeded: the deadline has passed.
    """
    if (end := _deadline.get()) is None:
        return None
    if (remaining := end - time.monotonic()) <= 0:
        raise DeadlineExceeded("the time for this request has run out")
    return remaining
