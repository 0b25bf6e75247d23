"""What is reserved for one call, and what the call is charged at its end."""

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
    """What one call may cost and take, reserved against every budget and limit that binds it."""

    history: AttemptHistory
    subjects: Sequence[Subject]
    id: str = field(default_factory=lambda: f"res_{secrets.token_hex(12)}")
    nano: int = 0
    tokens: int = 0
    window: Window | None = None
    process: str = ""
    """The lease that it belongs to."""
    step: int = 0
    """How often it was extended."""
    lost: bool = False
    """Whether its lease ended: the answer must not go on."""

    def active(self) -> ActiveReservation:
        """Return it as the counters store it."""
        return ActiveReservation(self.id, self.step, self.subjects, self.nano, self.tokens, self.history.dump())


@dataclass(slots=True)
class Settlement:
    """What one call is charged: one ledger row for each attempt."""

    rows: list[Row]
    reservation: Reservation | None = None
    """What it releases; None where nothing bound the call."""
    details: Mapping[str, int] = field(default_factory=dict)
    """Further counts of the engine that cost nothing, by name."""
    written: bool = False
    """Whether the ledger has the rows."""

    @property
    def id(self) -> str:
        """The id of its first row."""
        return self.rows[0].id

    @property
    def cost(self) -> int:
        """Nano-dollars, of all attempts."""
        return sum(row.cost for row in self.rows)

    @property
    def counted_by(self) -> str:
        """Who counted the tokens of the last attempt."""
        return self.rows[-1].counted_by
