"""Rows of the ledger: tokens and cost of each attempt of a call, and its charges by subject."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drw.billing.counters.client import Charge, Posting
from drw.billing.ledger.attempts import AttemptHistory
from drw.billing.subjects import caller_subjects, model_subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Tokens and cost of one attempt of a call; the migration describes the units."""

    id: str
    at: datetime
    org: str
    desk: str
    key: str
    model: str
    upstream: str = ""
    route: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_price: int = 0
    completion_price: int = 0
    cost: int = 0
    excess: int = 0
    outcome: str
    counted_by: str
    posted: bool = True
    excess_tokens: int = 0

    def charges(self) -> list[Charge]:
        """Return the charges of each subject."""
        tokens = self.prompt_tokens + self.completion_tokens - self.excess_tokens
        subjects = (*caller_subjects(self.org, self.desk, self.key), model_subject(self.model))
        return [(subject, self.cost, tokens) for subject in subjects]

    def posting(self) -> Posting:
        """Return the row in the form that is posted to the counters."""
        return self.id, self.at.timestamp() * 1000, self.charges()


def settlement_rows(
    id: str,
    history: AttemptHistory,
    *,
    at_ms: float,
    max_cost: int,
    max_tokens: int | None = None,
    outcome: str,
    counted_by: str,
    posted: bool = True,
) -> list[Row]:
    """Return the rows that settle a reservation of `max_cost` nano-dollars and `max_tokens`: one for each attempt.

    Usage beyond the reservation is not charged, and is recorded in `excess` and `excess_tokens`.
    """
    tokens_left = sum(attempt.tokens for attempt in history.attempts) if max_tokens is None else max_tokens
    cost_left = max_cost
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    rows = []
    for number, attempt in enumerate(history.attempts):
        cost = min(attempt.cost, cost_left)
        cost_left -= cost
        tokens = min(attempt.tokens, tokens_left)
        tokens_left -= tokens
        rows.append(
            Row(
                id=f"{id}.{number}" if number else id,
                at=at,
                org=history.org,
                desk=history.desk,
                key=history.key,
                model=attempt.model,
                upstream=attempt.upstream,
                route=history.route,
                prompt_tokens=attempt.prompt_tokens if attempt.started else 0,
                completion_tokens=attempt.completion_tokens if attempt.started else 0,
                prompt_price=attempt.price.prompt,
                completion_price=attempt.price.completion,
                cost=cost,
                excess=attempt.cost - cost,
                outcome=outcome,
                counted_by=counted_by if attempt.started else "nothing",
                posted=posted,
                excess_tokens=attempt.tokens - tokens,
            )
        )
    return rows


def total_charges(rows: Iterable[Row]) -> list[Charge]:
    """Return the charges of several rows, added up by subject."""
    sums: dict[Any, tuple[int, int]] = {}
    for row in rows:
        for subject, nano, tokens in row.charges():
            previous = sums.get(subject, (0, 0))
            sums[subject] = previous[0] + nano, previous[1] + tokens
    return [(subject, nano, tokens) for subject, (nano, tokens) in sums.items()]
