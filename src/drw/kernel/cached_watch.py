"""Watch with a cache: applies each state of a service's stream, and stores the newest for the next start."""

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
    """Passes each state of a stream to `apply`, beginning with the state cached in the file.

    The file is replaced atomically after `apply` returns, so that writing it never delays a state.
    """

    def __init__(
        self, message_type: type[M], watch: Callable[[], AsyncIterator[M]], file: Path, apply: Callable[[M], object]
    ) -> None:
        self._watch = watch
        self._file = file
        self._apply = apply
        if (stored := _read(message_type, file)) is not None:
            apply(stored)

    async def follow(self) -> None:
        """Apply and store each new state until the stream fails.

        Raises:
            Unavailable: the service does not respond; the last state stays in force.
        """
        while True:
            with suppress(DeadlineExceeded):  # every stream has a deadline: open the next one
                async with aclosing(self._watch()) as states:  # type: ignore[type-var]
                    async for state in states:
                        self._apply(state)
                        self._store(state)

    def _store(self, state: M) -> None:
        temporary = self._file.with_suffix(".new")
        try:
            with temporary.open("wb") as out:
                out.write(state.SerializeToString())
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written, and will be outdated at the next start: %s", self._file, error.strerror)


def _read(message_type: type[M], file: Path) -> M | None:
    """Return the state in a file; None if the file is missing or unreadable."""
    try:
        return message_type.FromString(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        log.warning("%s cannot be read; waiting for a new state: %s", file, error)
        return None
