"""Sixteen ways in which an upstream fails, and what the caller gets: `python -m bench.failover` prints the table."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent / "tests" / "models" / "failover" / "test_sixteen.py"


class Cases:
    """Gathers what the suite's tests found, by case."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[int, str, str]] = {}
        self._passed: dict[int, list[bool]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note which case each test is of."""
        for item in items:
            if mark := item.get_closest_marker("case"):
                self._marks[item.nodeid] = mark.args

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended."""
        if report.nodeid in self._marks and (report.when == "call" or report.failed):
            self._passed[self._marks[report.nodeid][0]].append(report.passed)

    def table(self) -> str:
        """Return a line for each case."""
        names: dict[int, str] = {}
        best: dict[int, list[str]] = defaultdict(list)
        for number, name, said in self._marks.values():
            names[number] = name
            if said not in best[number]:
                best[number].append(said)
        lines = ["| | the upstream's failure | what the caller gets | tests passed |", "| --: | --- | --- | --- |"]
        for number in sorted(names):
            found = self._passed[number]
            passed = f"{sum(found)} of {len(found)}"
            lines.append(f"| {number} | {names[number]} | {'; '.join(best[number])} | {passed} |")
        return "\n".join(lines)

    def passed(self) -> int:
        """Return how many cases passed in every test."""
        return sum(bool(found) and all(found) for found in self._passed.values())


def main() -> int:
    """Run the suite, print the table, and return 0 where all sixteen pass."""
    cases, began = Cases(), time.perf_counter()
    pytest.main([str(SUITE), "-q", "--no-header", "-p", "no:cacheprovider"], plugins=[cases])
    print(f"\n{cases.table()}\n\n{cases.passed()} of 16 pass, in {time.perf_counter() - began:.0f} s")
    return 0 if cases.passed() == 16 else 1


if __name__ == "__main__":
    sys.exit(main())
