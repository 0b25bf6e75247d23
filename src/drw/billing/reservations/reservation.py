"""Reservation and settlement of one call."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drw.billing.counters.client import ActiveReservation, Window
from drw.billing.ledger.attempts import AttemptHistory
from drw.billing.ledger.rows import Row
from drw.billing.subjects import Subject


@dataclass(slots=True, eq=False)
class Reservation:
    """Maximum cost and tokens of one call, reserved in every budget and limit that applies to it."""

    history: AttemptHistory
    subjects: Sequence[Subject]
    id: str = field(default_factory=lambda: f"res_{secrets.token_hex(12)}")
    nano: int = 0
    tokens: int = 0
    window: Window | None = None
    process: str = ""
    """Lease of the reservation."""
    step: int = 0
    """Number of requests to the counters: the first reserves, later ones extend."""
    lost: bool = False
    """Whether the lease has ended: the answer must not continue."""

    def active(self) -> ActiveReservation:
        """Return the reservation in the form that the counters store."""
        return ActiveReservation(self.id, self.step, self.subjects, self.nano, self.tokens, self.history.dump())


@dataclass(slots=True)
class Settlement:
    """Charges of one call: one ledger row for each attempt."""

    rows: list[Row]
    reservation: Reservation | None = None
    """The reservation to release; None if no budget or limit applied."""
    details: Mapping[str, int] = field(default_factory=dict)
    """Further counts of the engine, by name, which have no price."""
    written: bool = False
    """Whether the ledger has the rows."""
    committing: bool = False
    """Whether the call writes the rows together with other data now: nothing else may write them alone."""

    @property
    def id(self) -> str:
        """Id of the first row."""
        return self.rows[0].id

    @property
    def cost(self) -> int:
        """Cost of all attempts in nano-dollars."""
        return sum(row.cost for row in self.rows)

    @property
    def counted_by(self) -> str:
        """Source of the token counts of the last attempt."""
        return self.rows[-1].counted_by
