"""Exact e-processes of counts: the ratio of two arms' event rates, and sample ratio mismatch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drw.models.experiments.statistics.errors import InvalidDesign, InvalidStatistics, checked_count
from drw.models.experiments.statistics.mixtures import concentration, crossing, dirichlet_log_e
from drw.models.experiments.statistics.sequences import Interval


@dataclass(frozen=True, slots=True)
class Events:
    """Units of one arm, and those among them that had the event, such as an error."""

    units: int
    events: int

    def __post_init__(self) -> None:
        checked_count("units", self.units)
        if checked_count("events", self.events) > self.units:
            raise InvalidStatistics(f"{self.events} events among {self.units} units")

    def __add__(self, other: Events) -> Events:
        """Return the counts of both sets of units, which must not share units."""
        return Events(self.units + other.units, self.events + other.events)


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights divided by their sum.

    Raises:
        InvalidDesign: fewer than two weights, or one that is not positive and finite.
    """
    if len(weights) < 2 or not all(0 < weight < math.inf for weight in weights):
        raise InvalidDesign(f"two or more positive, finite weights are needed, not {tuple(weights)!r}")
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def sample_ratio_log_e(units: Sequence[int], weights: Sequence[float], planned_units: int, alpha: float) -> float:
    """Return the log e-value of "units are assigned by these weights", for any number of arms.

    It is exact at every sample size.

    Source: Lindon and Malek, NeurIPS 2022, section 3.
    """
    if len(units) != len(weights):
        raise InvalidStatistics(f"units of {len(units)} arms for {len(weights)} weights")
    counts = [checked_count("units", count) for count in units]
    return dirichlet_log_e(counts, shares(weights), concentration(planned_units, alpha))


def events_log_e(control: Events, treatment: Events, weight: float, planned_events: int, alpha: float) -> float:
    """Return the log e-value of "both arms have the same event rate"; `weight` is the treatment's share of both.

    If the rates are equal, an event's unit is in the treatment with the probability of its share, whatever the rate is
    and even if it changes over time. It is exact at every sample size, and needs assignment by the weights.

    Source: Lindon and Malek, NeurIPS 2022, section 4.
    """
    return _log_e(control, treatment, weight, weight, concentration(planned_events, alpha))


def _log_e(control: Events, treatment: Events, share: float, weight: float, total: float) -> float:
    """Return the log e-value of "an event's unit is in the treatment with probability `share`"."""
    counts = (control.events, treatment.events)
    prior = dirichlet_log_e(counts, (1 - weight, weight), total)
    shift = counts[1] * math.log(share / weight) + counts[0] * math.log((1 - share) / (1 - weight))
    return prior - shift


def lift_interval(control: Events, treatment: Events, weight: float, planned_events: int, alpha: float) -> Interval:
    """Return the relative difference of two event rates with its exact confidence sequence.

    The share of events in the treatment determines the ratio of the rates:
    share / (1 - share) = ratio * weight / (1 - weight). The upper limit is infinite without events in control.

    Source: prior-posterior-ratio confidence sequence, Waudby-Smith and Ramdas, NeurIPS 2020, for that share.
    """
    total = concentration(planned_events, alpha)
    threshold = -math.log(alpha)

    def excess(share: float) -> float:
        if share <= 0 or share >= 1:
            return math.inf
        return _log_e(control, treatment, share, weight, total) - threshold

    events = control.events + treatment.events
    inside = (treatment.events + total * weight) / (events + total)
    low = 0.0 if treatment.events == 0 else crossing(excess, inside, 0.0)
    high = 1.0 if control.events == 0 else crossing(excess, inside, 1.0)
    odds = (1 - weight) / weight
    estimate = _rate_ratio(control, treatment)
    return Interval(estimate - 1, low / (1 - low) * odds - 1, high / (1 - high) * odds - 1 if high < 1 else math.inf)


def _rate_ratio(control: Events, treatment: Events) -> float:
    if control.events == 0:
        return math.inf if treatment.events else 1.0
    return (treatment.events / treatment.units) / (control.events / control.units) if treatment.units else 0.0
