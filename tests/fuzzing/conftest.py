"""All services in one process, served over HTTP for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzzing.services import Served, serving_in_thread


@pytest.fixture(scope="module")
def served(postgres: Path, valkey: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All services, with a desk that has one object of each kind."""
    with serving_in_thread(postgres, valkey, folder, tmp_path_factory.mktemp("fuzz")) as found:
        yield found
