"""Burn rates and error budgets: the arithmetic, and the alerts of each pair of windows."""

from __future__ import annotations

import pytest

from drw.api.models.v1.health_pb2 import Slo
from drw.catalog import BURN_ALERTS, MIN_BAD_REQUESTS, BurnAlert, Objective, Service
from drw.models.health.burn_rates import ALL_WINDOWS, BUDGET_WINDOW, Counts, slos

SERVICE = Service(
    name="serving",
    cluster="models",
    summary="",
    objective=Objective(availability=0.999, latency_ms=500, latency_quantile=0.9),
)


def everywhere(counts: Counts) -> dict[int, Counts]:
    return dict.fromkeys(ALL_WINDOWS, counts)


def test_a_service_without_requests_has_its_whole_budget_and_no_alert() -> None:
    for slo in slos(SERVICE, {}):
        assert (slo.budget_left, slo.alert, slo.rule, slo.requests) == (1, Slo.NONE, "", 0)
        assert [(each.window, each.rate) for each in slo.burn_rates] == [("5m", 0), ("1h", 0), ("6h", 0), ("3d", 0)]


def test_the_budget_is_what_the_objective_permits_to_fail() -> None:
    availability, latency = slos(SERVICE, everywhere(Counts(good=899_750, slow=100_000, failed=250)))
    assert availability.budget_left == pytest.approx(0.75)  # 250 of the 1000 that may fail
    assert latency.budget_left == pytest.approx(0, abs=1e-3)  # 10 % of the answers are slow, as 0.9 permits
    assert (latency.latency_ms, latency.requests, latency.bad) == (500, 999_750, 100_000)
    (exceeded, _) = slos(SERVICE, everywhere(Counts(good=998_000, failed=2_000)))
    assert exceeded.budget_left == pytest.approx(-1)


@pytest.mark.parametrize("alert", BURN_ALERTS, ids=lambda alert: alert.name)
def test_an_alert_needs_both_of_its_windows_above_its_rate(alert: BurnAlert) -> None:
    def state(long_rate: float, short_rate: float) -> tuple[int, str]:
        windows = everywhere(Counts(good=100_000))
        for minutes, rate in ((alert.long_minutes, long_rate), (alert.short_minutes, short_rate)):
            failed = round(100 * rate)
            windows[minutes] = Counts(good=100_000 - failed, failed=failed)
        (availability, _) = slos(SERVICE, windows)
        return availability.alert, availability.rule

    fires = {"page": Slo.PAGE, "ticket": Slo.TICKET}[alert.severity]
    above, at = alert.rate * 1.01, alert.rate * 0.99
    assert state(above, above) == (fires, f"AvailabilityBurn{alert.name}")
    assert state(above, at) == (Slo.NONE, "")  # it is over already
    assert state(at, above) == (Slo.NONE, "")  # not long enough yet


def test_a_few_bad_requests_of_a_quiet_service_do_not_alert() -> None:
    few = Counts(good=10, failed=MIN_BAD_REQUESTS - 1)
    assert slos(SERVICE, everywhere(few))[0].alert == Slo.NONE
    assert slos(SERVICE, everywhere(Counts(good=10, failed=MIN_BAD_REQUESTS)))[0].alert == Slo.PAGE


def test_failed_requests_do_not_count_for_latency() -> None:
    _, latency = slos(SERVICE, everywhere(Counts(good=100, slow=0, failed=900)))
    assert (latency.requests, latency.bad, latency.alert) == (100, 0, Slo.NONE)
    assert BUDGET_WINDOW == 30 * 24 * 60
