"""The table of tested libraries has the locked versions."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path("docs/how-to/use/client-libraries.md")
LOCKS = [Path("requirements/dev.txt"), *sorted(Path("requirements/clients").glob("*.txt"))]
OFFICIAL = {"openai", "anthropic", "openfeature-provider-ofrep"}
"""Clients of the tests' own environment."""


def test_documented_libraries_have_their_locked_versions() -> None:
    locked: dict[str, str] = {}
    for lock in reversed(LOCKS):  # the tests' own environment last: its versions are the ones in the table
        locked |= dict(re.findall(r"^([a-z-]+)(?:\[[^]]*\])?==(\S+)", lock.read_text(), re.MULTILINE))
    table = PAGE.read_text().partition("## Tested libraries")[2].partition("tried once")[0]
    documented = dict(re.findall(r"^\| ([a-z-]+)(?: \(.*?\))? \| ([0-9.]+) \|", table, re.MULTILINE))
    assert documented == {name: locked.get(name) for name in documented}
    required = [
        line.partition("==")[0].partition("[")[0]
        for lock in LOCKS[1:]
        for line in lock.with_suffix(".in").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert {*required, *OFFICIAL} == documented.keys()
