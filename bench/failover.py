"""Failover of model calls by failure case, and of workflow runs by number: `python -m bench.failover`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from bench.workflow import failover as workflow_failover

SUITE = Path(__file__).parent.parent / "tests" / "models" / "failover" / "test_sixteen.py"


class Cases:
    """Pytest plugin that collects the test results of each case."""

    def __init__(self) -> None:
        self._cases: dict[str, tuple[int, str, str]] = {}
        self._results: dict[int, list[bool]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Record the case of each test."""
        for item in items:
            if mark := item.get_closest_marker("case"):
                self._cases[item.nodeid] = mark.args

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the result of a test."""
        if report.nodeid in self._cases and (report.when == "call" or report.failed):
            self._results[self._cases[report.nodeid][0]].append(report.passed)

    def table(self) -> str:
        """Return a table with one line per case."""
        names: dict[int, str] = {}
        outcomes: dict[int, list[str]] = defaultdict(list)
        for number, name, expected in self._cases.values():
            names[number] = name
            if expected not in outcomes[number]:
                outcomes[number].append(expected)
        lines = ["| | the upstream's failure | what the caller gets | tests passed |", "| --: | --- | --- | --- |"]
        for number in sorted(names):
            results = self._results[number]
            passed = f"{sum(results)} of {len(results)}"
            lines.append(f"| {number} | {names[number]} | {'; '.join(outcomes[number])} | {passed} |")
        return "\n".join(lines)

    def passed(self) -> int:
        """Return how many cases passed in every test."""
        return sum(bool(results) and all(results) for results in self._results.values())


def main() -> int:
    """Run the suite, print the table, and return 0 where all sixteen pass."""
    cases, started_at = Cases(), time.perf_counter()
    pytest.main([str(SUITE), "-q", "--no-header", "-p", "no:cacheprovider"], plugins=[cases])
    print(f"\n{cases.table()}\n\n{cases.passed()} of 16 pass, in {time.perf_counter() - started_at:.0f} s")
    return 0 if cases.passed() == 16 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.failover", description="Failover of model calls and workflow runs.")
    parser.add_argument("what", nargs="?", choices=("models", "workflows"), help="default: both")
    what = parser.parse_args().what
    in_time = what == "models" or workflow_failover.main()
    sys.exit((what != "workflows" and main()) or not in_time)
