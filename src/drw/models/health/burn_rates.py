"""Error budgets and burn rates of service level objectives, as in "The Site Reliability Workbook" (2018), chapter 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drw.api.models.v1.health_pb2 import BurnRate, Slo
from drw.catalog import BURN_ALERTS, MIN_BAD_REQUESTS, OBJECTIVE_DAYS, Service

AVAILABILITY, LATENCY = "availability", "latency"
SHOWN_WINDOWS = {"5m": 5, "1h": 60, "6h": 360, "3d": 4320}
"""Windows of the burn rates that are reported, in minutes."""
BUDGET_WINDOW = OBJECTIVE_DAYS * 1440
ALL_WINDOWS = sorted(
    {BUDGET_WINDOW, *SHOWN_WINDOWS.values()}
    | {minutes for alert in BURN_ALERTS for minutes in (alert.long_minutes, alert.short_minutes)}
)
SEVERITIES = {"page": Slo.PAGE, "ticket": Slo.TICKET}


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests in a window by outcome."""

    good: int = 0
    slow: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Ratio:
    """Bad requests among all that an objective counts."""

    bad: int
    total: int

    def burn_rate(self, target: float) -> float:
        """Return the share of bad requests relative to the share that the target permits; 0 without requests."""
        return self.bad / self.total / (1 - target) if self.total else 0.0


def slos(service: Service, windows: Mapping[int, Counts]) -> list[Slo]:
    """Return the objectives of a service; `windows` are its requests in each window, by its minutes."""
    objective = service.objective
    availability = {m: Ratio(c.failed, c.good + c.slow + c.failed) for m, c in windows.items()}
    latency = {m: Ratio(c.slow, c.good + c.slow) for m, c in windows.items()}
    first = _slo(service.name, AVAILABILITY, objective.availability, availability)
    second = _slo(service.name, LATENCY, objective.latency_quantile, latency)
    second.latency_ms = objective.latency_ms
    return [first, second]


def _slo(service: str, objective: str, target: float, windows: Mapping[int, Ratio]) -> Slo:
    none = Ratio(0, 0)
    budget = windows.get(BUDGET_WINDOW, none)
    slo = Slo(
        service=service,
        objective=objective,
        target=target,
        requests=budget.total,
        bad=budget.bad,
        budget_left=round(1 - budget.burn_rate(target), 6),
        alert=Slo.NONE,
    )
    for name, minutes in SHOWN_WINDOWS.items():
        rate = windows.get(minutes, none).burn_rate(target)
        slo.burn_rates.append(BurnRate(window=name, rate=round(rate, 3)))
    for alert in BURN_ALERTS:
        long, short = windows.get(alert.long_minutes, none), windows.get(alert.short_minutes, none)
        burns = min(long.burn_rate(target), short.burn_rate(target)) > alert.rate
        if burns and long.bad >= MIN_BAD_REQUESTS:
            slo.alert = SEVERITIES[alert.severity]
            slo.rule = f"{objective.title()}Burn{alert.name}"
            break
    return slo
