"""A/A and A/B tests of the statistics of experiments, looked at a hundred times: `python -m bench.experiments`.

`--quick` simulates a tenth of the tests. The command exits with 1 if an analysis has more false positives than alpha.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from bench.experiments import false_positives, populations, power
from bench.experiments.false_positives import Compare, Pick, cuped, cuped_ratio, difference, events, lift_beyond, scores
from bench.experiments.simulation import Draw, Size
from drw.models.experiments.statistics.contrasts import compare_means, compare_ratios
from drw.models.experiments.statistics.sample_size import proportion_deviation

TESTS = 2000
CAP_LOGNORMAL = 32.8
"""99th percentile of the lognormal distribution with sigma 1.5."""
CAP_PARETO = 21.5
"""99th percentile of the Pareto distribution with tail 1.5."""

AA_HEADER = """
## A/A tests, 100 looks

| analysis | tests | false positives | 95 % interval | alpha | naive | looks without a result |
| --- | --: | --: | --: | --: | --: | --: |"""
POWER_HEADER = """
## A/B tests

| analysis | effect | most units an arm | found | median units an arm | z-test at end | z-test needs | `units_needed` |
| --- | --- | --: | --: | --: | --: | --: | --: |"""


def aa_rows(tests: int) -> Iterator[Callable[[], false_positives.Row]]:
    """Yield the A/A simulations."""
    size, half = Size(tests, 100, 100), Size(tests, 100, 50)
    p = populations

    def means(
        name: str, draw: Draw, seed: int, compare: Compare = compare_means, pick: Pick = difference
    ) -> Callable[[], false_positives.Row]:
        return lambda: false_positives.asymptotic(name, draw, size, seed, compare, pick)

    yield means("mean, normal", p.normal(), 1)
    yield means("mean, lognormal (sigma 1.5)", p.lognormal(1.5), 2)
    yield means("mean, lognormal (sigma 1.5), capped at p99", p.lognormal(1.5, cap=CAP_LOGNORMAL), 3)
    yield means("mean, Pareto (tail 1.5)", p.pareto(1.5), 4)
    yield means("mean, Pareto (tail 1.5), capped at p99", p.pareto(1.5, cap=CAP_PARETO), 5)
    yield means("mean, same mean and other shape", p.other_shape(1.5), 6)
    yield means("mean, same mean and other shape, capped", p.other_shape(1.5, cap=CAP_LOGNORMAL), 7)
    yield means("mean, event rate 1 %", p.event(0.01), 8)
    yield means("mean with CUPED (r = 0.7)", p.covariate(0.7), 9, cuped)
    yield means("lift of a mean misses +10 %", p.lognormal(0.5, lift=0.1), 10, compare_means, lift_beyond(0.1))
    yield means("ratio, clustered requests", p.clustered(0.05), 11, compare_ratios)
    yield means("ratio with CUPED, clustered requests", p.clustered(0.05, before=True), 12, cuped_ratio)
    yield lambda: false_positives.returning_users(tests // 4, 13)
    yield lambda: false_positives.exact("proportion, exact, 2 %", p.event(0.02), size, 14, events)
    yield lambda: false_positives.exact("score, exact", p.score(0.7, 8), half, 15, scores)
    yield lambda: false_positives.quantile("p50, exact, lognormal", p.lognormal(1.0), size, 16, 0.5)
    yield lambda: false_positives.quantile("p99, exact, lognormal", p.lognormal(1.0), size, 17, 0.99)
    yield lambda: false_positives.quantile("p99, exact, Pareto (tail 1.5)", p.pareto(1.5), size, 18, 0.99)
    yield lambda: false_positives.quantile("p99, exact, clustered requests", p.clustered_latency(6), half, 19, 0.99)
    yield lambda: false_positives.sample_ratio(Size(5 * tests, 100, 100), 20, (1, 1))
    yield lambda: false_positives.sample_ratio(Size(5 * tests, 100, 100), 21, (50, 30, 20))
    yield lambda: false_positives.many_metrics(tests, 22, 0)
    yield lambda: false_positives.many_metrics(tests, 23, 2)


def power_rows(tests: int) -> Iterator[Callable[[], power.Row]]:
    """Yield the A/B simulations, each of a fifth of the tests."""
    size = Size(tests // 5, 100, 100)
    long = Size(tests // 5, 100, 300)
    p = populations
    for effect in (0.05, 0.1, 0.2):
        label = f"+{effect} standard deviations"
        yield partial(power.asymptotic, "mean, normal", label, p.normal(effect), size, 31, absolute=effect)
    draw = p.covariate(0.7, 0.1)
    label = "+0.1 standard deviations"
    yield partial(power.asymptotic, "mean with CUPED (r = 0.7)", label, draw, size, 32, cuped, 0.1)
    draw = p.clustered(0.05, 0.2)
    yield partial(power.asymptotic, "ratio, clustered requests", "5 % to 6 %", draw, size, 33, compare_ratios, 0.01)
    for lift in (0.5, 1.0):
        draw, needed = p.event(0.02, lift), (proportion_deviation(0.02 + 0.01 * lift), 0.02 * lift)
        label = f"2 % to {2 * (1 + lift):g} %"
        yield partial(power.exact, "proportion, exact", label, draw, size, 34, events, needed)
        yield partial(power.asymptotic, "the same, asymptotic", label, draw, size, 34, absolute=needed[1])
    draw, needed = p.score(0.7, 8, 0.05), ((0.7 * 0.3 / 9) ** 0.5, 0.05)
    yield partial(power.exact, "score, exact", "0.70 to 0.75", draw, size, 35, scores, needed)
    yield partial(power.asymptotic, "the same, asymptotic", "0.70 to 0.75", draw, size, 35, absolute=0.05)
    for lift in (0.1, 0.2, 0.5):
        draw, label = p.lognormal(0.5, lift), f"+{lift:.0%}"
        yield partial(power.quantile, "p99, exact, lognormal (sigma 0.5)", label, draw, long, 36, 0.99)
    yield partial(power.quantile, "p50, exact, lognormal (sigma 0.5)", "+10%", p.lognormal(0.5, 0.1), size, 37, 0.5)
    yield partial(power.sample_ratio, Size(tests, 200, 100), 38, 0.53)


def refused(tests: int) -> Iterator[str]:
    """Yield the table of what the design refuses: unequal arms, and looks at a few units."""
    yield "\n## What the design refuses: an A/A test of a mean, lognormal (sigma 1.5)\n"
    yield "| allocation | false positives from two units an arm | from 500 units an arm |\n| --- | --: | --: |"
    for share in (0.5, 1 / 3, 0.2, 0.1, 0.05):
        early, late = false_positives.allocation(tests // 2, 41, share)
        yield f"| {share:.0%} : {1 - share:.0%} | {early:.1%} | {late:.1%} |"


def main(tests: int = TESTS) -> int:
    """Print the tables; return 1 if an analysis has more false positives than alpha."""
    began = time.process_time()
    above = 0
    print(AA_HEADER)
    for aa in aa_rows(tests):
        row = aa()
        above += row.rejected > row.alpha * row.tests
        print(row.line(), flush=True)
    print(POWER_HEADER)
    for ab in power_rows(tests):
        print(ab().line(), flush=True)
    for line in refused(tests):
        print(line, flush=True)
    print(f"\n{above} analyses above alpha; {time.process_time() - began:.0f} s of processor time")
    return 1 if above else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.experiments", description="False positives and power of experiments.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the tests")
    sys.exit(main(TESTS // 10 if parser.parse_args().quick else TESTS))
