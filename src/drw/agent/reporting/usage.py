"""Reports usage of third-party upstreams to the rate limiting service: each request at least once, in order.

Envoy writes one line per request to `usage.log`. A full file is rotated under a number and deleted once it is fully
reported. The position is stored in `usage.json`, so that no usage is lost when the agent or the service dies. Requests
may be reported twice; the service deduplicates them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery.files import write_json
from drw.agent.xds.translation import EdgeOptions
from drw.api.gateway.v1.rate_limiting_pb2 import ReportUsageRequest, Usage
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.errors import DrwError, InvalidRequest

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 16 << 20
CHUNK_BYTES = 256 << 10
BATCH_SIZE = 500
POLL_SECONDS = 0.2
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
REPORT_SECONDS = 10.0
MAX_TEXT_LENGTH = 200
MAX_TOKENS = 100_000_000
"""Maximum plausible token count."""
MISSING = "-"
"""Envoy's placeholder for a missing value."""

REJECTED_FILE = "usage.refused.log"
TEXT_FIELDS = ("request_id", "org", "desk", "key", "model", "route", "upstream", "flags", "trace_id")


class UsageLog:
    """The usage log of one data plane."""

    def __init__(
        self,
        edge: EdgeOptions,
        data_plane: str,
        limiting: RateLimitingClient,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        self._file = edge.usage
        self._state = self._file.with_suffix(".json")
        self._admin = EnvoyAdmin(edge.plane.admin)
        self._data_plane = data_plane
        self._limiting = limiting
        self._max_file_bytes = max_file_bytes
        self._retry_seconds = retry_seconds

    async def run(self) -> None:
        """Run until cancelled."""
        failures = 0
        while True:
            try:
                has_more = await self.step()
                failures = 0
                if not has_more:
                    await asyncio.sleep(POLL_SECONDS)
            except (DrwError, OSError) as error:
                pause = self._retry_seconds[min(failures, len(self._retry_seconds) - 1)]
                failures += 1
                log.warning("cannot report usage, retrying in %s s: %s", pause, error)
                await asyncio.sleep(pause)

    async def step(self) -> bool:
        """Report the next lines; return whether there were any.

        Raises:
            DrwError: the service does not answer. The lines are reported later.
        """
        files = self._files()
        if not files:
            return False
        current, offset = self._position(files)
        for counted_file in files[: files.index(current)]:
            counted_file.unlink()  # already counted
        lines, end = _read_lines(current, offset)
        if lines:
            await self._report([usage for line in lines if (usage := _parse_usage(line))])
        if end > offset:
            self._store_position(current, end)
            return True
        return await self._advance(current, files)

    def _files(self) -> list[Path]:
        """Return the files, oldest first."""
        rotated = sorted(self._file.parent.glob("usage.[0-9]*.log"))
        return [*rotated, *([self._file] if self._file.exists() else [])]

    def _position(self, files: Sequence[Path]) -> tuple[Path, int]:
        """Return the current file and offset, or the oldest file if unknown."""
        try:
            stored = orjson.loads(self._state.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            stored = {}
        for file in files:
            stat = file.stat()
            if stat.st_ino == stored.get("inode") and stored["offset"] <= stat.st_size:
                return file, stored["offset"]
        return files[0], 0

    def _store_position(self, file: Path, offset: int) -> None:
        write_json(self._state, {"inode": file.stat().st_ino, "offset": offset})

    async def _advance(self, current: Path, files: Sequence[Path]) -> bool:
        """Advance to the next file, or rotate a full one; return whether there is more to read."""
        if current != self._file:
            following = files[files.index(current) + 1 :]
            if not following:
                await self._admin.reopen_logs()  # Envoy still writes to the rotated file
                return False
            self._finish(current, following[0])
            return True
        if self._rotate(current, files):
            await self._admin.reopen_logs()
        return False

    def _finish(self, current: Path, following: Path) -> None:
        self._store_position(following, 0)  # first, so that the position is always recorded
        current.unlink()

    def _rotate(self, current: Path, files: Sequence[Path]) -> bool:
        """Rename the current file if it is full; return whether it was."""
        if current.stat().st_size < self._max_file_bytes:
            return False
        number = 1 + max((int(file.name.split(".")[1]) for file in files[:-1]), default=0)
        current.rename(self._file.with_suffix(f".{number:06}.log"))
        return True

    async def _report(self, usages: Sequence[Usage]) -> None:
        for start in range(0, len(usages), BATCH_SIZE):
            batch = usages[start : start + BATCH_SIZE]
            try:
                await self._send(batch)
            except InvalidRequest:
                await self._report_each(batch)

    async def _report_each(self, usages: Sequence[Usage]) -> None:
        """Report one by one. A permanently rejected report is moved to a separate file and does not block others."""
        for usage in usages:
            try:
                await self._send([usage])
            except InvalidRequest as error:
                log.error("the usage of request %s is rejected: %s", usage.request_id, error.message)
                with self._file.with_name(REJECTED_FILE).open("ab") as out:
                    out.write(usage.SerializeToString().hex().encode() + b"\n")

    async def _send(self, usages: Sequence[Usage]) -> None:
        request = ReportUsageRequest(data_plane=self._data_plane, usages=usages)
        await self._limiting.report_usage(request, timeout=REPORT_SECONDS)


def _read_lines(file: Path, offset: int) -> tuple[list[bytes], int]:
    """Return the complete lines from an offset, and the offset after them."""
    with file.open("rb") as stream:
        stream.seek(offset)
        chunk = stream.read(CHUNK_BYTES)
    complete, newline, _ = chunk.rpartition(b"\n")
    if not newline and len(chunk) == CHUNK_BYTES:
        log.error("%s has an oversized line at byte %d", file.name, offset)
        return [], offset + len(chunk)
    return complete.splitlines(), offset + len(complete) + len(newline)


def _parse_usage(line: bytes) -> Usage | None:
    try:
        entry = orjson.loads(line)
        usage = Usage(status=int(entry["status"] or 0))
        for name in TEXT_FIELDS:
            text = str(entry[name] or "")
            setattr(usage, name, "" if text == MISSING else text[:MAX_TEXT_LENGTH])
        usage.at.FromDatetime(datetime.fromisoformat(entry["at"].replace("Z", "+00:00")))
        usage.bytes_in = int(entry.get("bytes_in") or 0)
        if (tokens := _token_counts(entry)) is not None:
            usage.counted = True
            usage.prompt_tokens, usage.completion_tokens = tokens
    except (orjson.JSONDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        log.error("invalid line in the usage log: %s", error)
        return None
    return usage


def _token_counts(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Return the token counts of the upstream, or None if missing or implausible."""
    counts = entry["prompt_tokens"], entry["completion_tokens"]
    if counts == (None, None):
        return None
    prompt, completion = (max(0, int(count or 0)) for count in counts)
    return (prompt, completion) if max(prompt, completion) <= MAX_TOKENS else None
