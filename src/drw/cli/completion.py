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
    return _found(context, incomplete, "/api/v1/models", "models", "engine")


def keys(context: typer.Context, incomplete: str) -> Names:
    """Return the key ids with this prefix."""
    return _found(context, incomplete, "/api/v1/keys", "keys", "name")


def _found(context: typer.Context, incomplete: str, path: str, items: str, about: str) -> Names:
    names: Names = []
    with suppress(DrwError, OSError, ValueError, LookupError, TypeError), _bounded():
        listed = Api.of(context.params.get("data_dir")).get(path)[items]
        names = [(str(one["id"]), str(one.get(about, ""))) for one in listed if str(one["id"]).startswith(incomplete)]
    return names


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise `TimeoutError` after a total time; a client's time-outs restart with every byte."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, float(os.environ.get("DRW_COMPLETION_SECONDS", SECONDS)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
