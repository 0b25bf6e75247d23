"""`Retry-After` of an unavailable process: its last start time."""

from __future__ import annotations

from pathlib import Path

import pytest

from drw.kernel.errors import DrwError, NotFound, Unavailable
from drw.kernel.rpc import start_times
from drw.kernel.rpc.http.server import error_response


@pytest.fixture
def start_times_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(start_times, "_file", None)
    monkeypatch.setattr(start_times, "_process_of", {})
    start_times.configure(tmp_path / "starts.json", {"documents": "rag", "embedding": "rag"})
    start_times.write_start_times(tmp_path / "starts.json", {"engine": 6.2, "rag": 3.0})
    return tmp_path / "starts.json"


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (Unavailable("the engine does not answer", part="engine"), "7"),
        (Unavailable("the embedding service does not answer", service="embedding"), "3"),
        (Unavailable("the counters are being rebuilt", part="engine", retry_after="5"), "5"),
        (Unavailable("the database does not answer", part="postgres"), "1"),
        (NotFound("no such thing", part="engine"), None),
    ],
)
def test_retry_after_is_the_start_time_of_the_process(
    start_times_file: Path, error: DrwError, retry_after: str | None
) -> None:
    assert error_response(error).headers.get("retry-after") == retry_after


def test_retry_after_has_a_default_without_measurements(start_times_file: Path) -> None:
    start_times_file.unlink()
    assert error_response(Unavailable("gone", part="engine")).headers["retry-after"] == "1"
