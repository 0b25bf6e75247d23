"""Shell completion of names from the platform. Silent if the platform does not answer in time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from drw.cli.api import Api
from drw.kernel.errors import DrwError

SECONDS = "1"
"""Total time, because the user is waiting. DRW_COMPLETION_SECONDS overrides it."""

Names = list[tuple[str, str]]


def models(context: typer.Context, incomplete: str) -> Names:
    """Return the models and aliases with this prefix."""
    return _complete(context, incomplete, "/api/v1/models", "models", "engine")


def keys(context: typer.Context, incomplete: str) -> Names:
    """Return the key ids with this prefix."""
    return _complete(context, incomplete, "/api/v1/keys", "keys", "name")


def _complete(context: typer.Context, incomplete: str, path: str, items: str, description_field: str) -> Names:
    names: Names = []
    with suppress(DrwError, OSError, ValueError, LookupError, TypeError), _time_limit():
        records = Api.of(context.params.get("data_dir")).get(path)[items]
        names = [
            (str(record["id"]), str(record.get(description_field, "")))
            for record in records
            if str(record["id"]).startswith(incomplete)
        ]
    return names


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise `TimeoutError` after a total time; a client's time-outs restart with every byte."""

    def on_alarm(*_: object) -> None:
        raise TimeoutError

    previous_handler = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, float(os.environ.get("DRW_COMPLETION_SECONDS", SECONDS)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
