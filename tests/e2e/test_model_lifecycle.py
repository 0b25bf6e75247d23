"""A predictive model from training to rollback, as the tutorial shows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from e2e.platform import Platform
from e2e.tutorial import Tutorial

PAGE = Path(__file__).parents[2] / "docs/how-to/operate/model-lifecycle.md"


class Environments(Mapping[str, Mapping[str, str]]):
    """The environment of each person: the administrator's data folder, or the key that the page has issued."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._platform = platform
        self._folder = folder

    def __getitem__(self, person: str) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        if person == "admin":
            return {"PATH": path, "DRW_DATA_DIR": str(self._platform.data)}
        key = (self._folder / f"{person}.key").read_text().strip()
        return {"PATH": path, "DRW_URL": self._platform.credentials["url"], "DRW_API_KEY": key}

    def __iter__(self) -> Iterator[str]:
        return iter(("admin", "ann", "bob", "cleo"))

    def __len__(self) -> int:
        return len(list(iter(self)))


def test_the_tutorial_prints_what_it_shows(platform: Platform, tmp_path: Path) -> None:
    Tutorial(PAGE, tmp_path).run(Environments(platform, tmp_path))
