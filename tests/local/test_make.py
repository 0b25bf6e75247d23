"""The commands of `make up`, in a folder with the files of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
SOURCES = ("pyproject.toml", *(f"requirements/{name}.txt" for name in ("run", "dev", "models", "samples", "tools")))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with everything installed, with file times in that order."""
    shutil.copy(MAKEFILE, tmp_path)
    for number, name in enumerate((*SOURCES, ".venv/uv", ".venv/run", ".venv/dev")):
        touch(tmp_path / name, number)
    return tmp_path


def touch(file: Path, time: int) -> None:
    file.parent.mkdir(exist_ok=True)
    file.touch()
    os.utime(file, (time, time))


def packages_to_install(checkout: Path) -> list[str]:
    """Return the requirements files that `make up` would install."""
    result = subprocess.run(["make", "-n", "up"], cwd=checkout, capture_output=True, text=True, check=True)
    lists = {"requirements/run.txt", "requirements/dev.txt"}
    return [word for line in result.stdout.splitlines() if "pip sync" in line for word in line.split() if word in lists]


def test_up_to_date_packages_are_not_installed(checkout: Path) -> None:
    assert packages_to_install(checkout) == []


def test_changed_requirements_reinstall_the_dev_packages_if_present(checkout: Path) -> None:
    for name in ("run", "dev"):
        touch(checkout / f"requirements/{name}.txt", 100)
    assert packages_to_install(checkout) == ["requirements/dev.txt"]


def test_without_dev_packages_only_the_runtime_is_reinstalled(checkout: Path) -> None:
    (checkout / ".venv/dev").unlink()
    touch(checkout / "requirements/run.txt", 100)
    assert packages_to_install(checkout) == ["requirements/run.txt"]
