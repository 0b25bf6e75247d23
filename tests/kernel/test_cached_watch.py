"""Cached watch: applies each state of a stream immediately, and restores the newest at the next start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill, Kills
from drw.kernel.cached_watch import CachedWatch
from drw.kernel.errors import DeadlineExceeded, Unavailable

ONE, TWO = (Kills(kills=[Kill(subject=Kill.KEY, name=name)]) for name in ("one", "two"))


class Source:
    """A service whose streams send the given states, and then raise the given error."""

    def __init__(self, *streams: tuple[list[Kills], BaseException]) -> None:
        self._streams = iter(streams)

    async def watch(self) -> AsyncIterator[Kills]:
        states, end = next(self._streams)
        for state in states:
            yield state
        raise end


def cached_watch(file: Path, source: Source, apply: Callable[[Kills], object]) -> CachedWatch[Kills]:
    return CachedWatch(Kills, source.watch, file, apply)


async def test_each_state_is_applied_and_the_last_is_restored_at_the_next_start(tmp_path: Path) -> None:
    applied: list[Kills] = []
    file = tmp_path / "kills"
    source = Source(([ONE, TWO], Unavailable("gone")))
    with pytest.raises(Unavailable):
        await cached_watch(file, source, applied.append).follow()
    assert applied == [ONE, TWO]
    restored: list[Kills] = []
    cached_watch(file, Source(), restored.append)
    assert restored == [TWO]


async def test_a_stream_is_reopened_after_its_deadline(tmp_path: Path) -> None:
    applied: list[Kills] = []
    source = Source(([ONE], DeadlineExceeded("no stream lasts for ever")), ([TWO], Unavailable("gone")))
    with pytest.raises(Unavailable):
        await cached_watch(tmp_path / "kills", source, applied.append).follow()
    assert applied == [ONE, TWO]


async def test_a_state_is_applied_before_it_is_stored(tmp_path: Path) -> None:
    file, stored = tmp_path / "kills", []
    source = Source(([ONE], Unavailable("gone")))
    with pytest.raises(Unavailable):
        await cached_watch(file, source, lambda state: stored.append(file.exists())).follow()
    assert stored == [False]
    assert file.exists()


async def test_a_cache_file_that_cannot_be_read_or_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    applied: list[Kills] = []
    file = tmp_path / "kills"
    file.write_bytes(b"\xff\xff")
    source = Source(([ONE], asyncio.CancelledError()))
    watch = cached_watch(file, source, applied.append)
    assert "cannot be read" in caplog.text and applied == []
    file.with_suffix(".new").mkdir()
    with pytest.raises(asyncio.CancelledError):
        await watch.follow()
    assert applied == [ONE]
    assert "cannot be written" in caplog.text
