"""When a caller may come back: as long as the part that is away took to start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc import start_times
from drw.kernel.rpc.http_server import error_response


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(start_times, "_starts", None)
    monkeypatch.setattr(start_times, "_process_of", {})
    start_times.configure(tmp_path / "starts.json", {"documents": "rag", "embedding": "rag"})
    start_times.write_start_times(tmp_path / "starts.json", {"engine": 6.2, "rag": 3.0})
    return tmp_path / "starts.json"


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (Unavailable("the engine does not answer", part="engine"), "7"),
        (Unavailable("the embedding service does not answer", service="embedding"), "3"),
        (Unavailable("the counters are being rebuilt", part="engine", retry_after="5"), "5"),
        (Unavailable("the database does not answer", part="postgres"), "1"),
        (NotFound("no such thing", part="engine"), None),
    ],
)
def test_retry_after_is_the_start_time_of_the_process(measured: Any, error: Any, after: str | None) -> None:
    assert error_response(error).headers.get("retry-after") == after


def test_without_a_measurement_it_is_the_default(measured: Any) -> None:
    measured.unlink()
    assert error_response(Unavailable("gone", part="engine")).headers["retry-after"] == "1"
