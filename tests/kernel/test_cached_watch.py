"""The newest state of a stream: in force at once, and known at the next start without the other service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill, Kills
from drw.kernel.cached_watch import CachedWatch
from drw.kernel.errors import DeadlineExceeded, Unavailable

ONE, TWO = (Kills(kills=[Kill(subject=Kill.KEY, name=name)]) for name in ("one", "two"))


class Source:
    """A service whose streams send these states, and end as they say."""

    def __init__(self, *streams: tuple[list[Kills], BaseException]) -> None:
        self._streams = iter(streams)

    async def watch(self) -> AsyncIterator[Kills]:
        states, end = next(self._streams)
        for state in states:
            yield state
        raise end


def following(file: Path, source: Source, apply: Callable[[Kills], object]) -> CachedWatch[Kills]:
    return CachedWatch(Kills, source.watch, file, apply)


async def test_each_state_is_applied_and_the_last_one_is_there_at_the_next_start(tmp_path: Path) -> None:
    applied: list[Any] = []
    file = tmp_path / "kills"
    source = Source(([ONE, TWO], Unavailable("gone")))
    with pytest.raises(Unavailable):
        await following(file, source, applied.append).follow()
    assert applied == [ONE, TWO]
    again: list[Any] = []
    following(file, Source(), again.append)
    assert again == [TWO]


async def test_a_stream_that_reaches_its_deadline_is_opened_again(tmp_path: Path) -> None:
    applied: list[Any] = []
    source = Source(([ONE], DeadlineExceeded("no stream lasts for ever")), ([TWO], Unavailable("gone")))
    with pytest.raises(Unavailable):
        await following(tmp_path / "kills", source, applied.append).follow()
    assert applied == [ONE, TWO]


async def test_a_state_is_applied_before_it_is_stored(tmp_path: Path) -> None:
    file, stored = tmp_path / "kills", []
    source = Source(([ONE], Unavailable("gone")))
    with pytest.raises(Unavailable):
        await following(file, source, lambda state: stored.append(file.exists())).follow()
    assert stored == [False]
    assert file.exists()


async def test_a_file_that_cannot_be_read_or_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    applied: list[Any] = []
    file = tmp_path / "kills"
    file.write_bytes(b"\xff\xff")
    source = Source(([ONE], asyncio.CancelledError()))
    watch = following(file, source, applied.append)
    assert "cannot be read" in caplog.text and applied == []
    file.with_suffix(".new").mkdir()
    with pytest.raises(asyncio.CancelledError):
        await watch.follow()
    assert applied == [ONE]
    assert "cannot be written" in caplog.text
