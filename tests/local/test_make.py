"""What `make` would do, in a folder that only looks like a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
SOURCES = ("pyproject.toml", *(f"requirements/{name}.txt" for name in ("run", "dev", "models", "samples", "tools")))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with everything installed, in the order of the times of its files."""
    shutil.copy(MAKEFILE, tmp_path)
    for number, name in enumerate((*SOURCES, ".venv/uv", ".venv/run", ".venv/dev")):
        put(tmp_path / name, number)
    return tmp_path


def put(file: Path, time: int) -> None:
    file.parent.mkdir(exist_ok=True)
    file.touch()
    os.utime(file, (time, time))


def would_install(checkout: Path) -> list[str]:
    """The lists of packages that `make up` would install."""
    done = subprocess.run(["make", "-n", "up"], cwd=checkout, capture_output=True, text=True, check=True)
    wanted = {"requirements/run.txt", "requirements/dev.txt"}
    return [word for line in done.stdout.splitlines() if "pip sync" in line for word in line.split() if word in wanted]


def test_what_is_installed_stays(checkout: Any) -> None:
    assert would_install(checkout) == []


def test_newer_packages_are_installed_with_those_of_the_tests_where_those_are(checkout: Any) -> None:
    for name in ("run", "dev"):
        put(checkout / f"requirements/{name}.txt", 100)
    assert would_install(checkout) == ["requirements/dev.txt"]


def test_without_those_of_the_tests_only_what_the_platform_needs_is(checkout: Any) -> None:
    (checkout / ".venv/dev").unlink()
    put(checkout / "requirements/run.txt", 100)
    assert would_install(checkout) == ["requirements/run.txt"]
