"""Follows a stream of states of another service, and stores the newest for the next start of the process."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from drw.kernel.errors import DeadlineExceeded

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class CachedWatch(Generic[M]):
    """Gives each state of a stream to `apply`: first the one that the file has from before, then each new one.

    The file is replaced after `apply`, durably and in one step: it never delays a state, and is never half written.
    """

    def __init__(
        self, kind: type[M], watch: Callable[[], AsyncIterator[M]], file: Path, apply: Callable[[M], object]
    ) -> None:
        self._watch = watch
        self._file = file
        self._apply = apply
        if (stored := _read(kind, file)) is not None:
            apply(stored)

    async def follow(self) -> None:
        """Apply and store each new state, for as long as the other service answers.

        Raises:
            Unavailable: it does not answer; the last state stays in force.
        """
        while True:
            with suppress(DeadlineExceeded):  # no stream lasts for ever
                async with aclosing(self._watch()) as states:  # type: ignore[type-var]
                    async for state in states:
                        self._apply(state)
                        self._store(state)

    def _store(self, state: M) -> None:
        draft = self._file.with_suffix(".new")
        try:
            with draft.open("wb") as out:
                out.write(state.SerializeToString())
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written, and will be outdated at the next start: %s", self._file, error.strerror)


def _read(kind: type[M], file: Path) -> M | None:
    """Return the state in a file; None where there is none that can be read."""
    try:
        return kind.FromString(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        log.warning("%s cannot be read; waiting for a new state: %s", file, error)
        return None
