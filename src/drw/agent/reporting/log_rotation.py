"""Keeps access logs from filling the disk: a full file is put aside, and the oldest goes."""

from __future__ import annotations

from pathlib import Path

from drw.agent.adapters.envoy_admin import EnvoyAdmin

MAX_BYTES = 64 << 20
KEPT = 5
KEPT_ANONYMOUS = 1


class AccessLog:
    """One access log of an Envoy: `access.log`, and `access.1.log` to `access.5.log` from new to old."""

    def __init__(self, file: Path, admin: EnvoyAdmin, max_bytes: int = MAX_BYTES, backups: int = KEPT) -> None:
        self._file = file
        self._admin = admin
        self._max_bytes = max_bytes
        self._backups = backups

    async def turn(self) -> None:
        """Put the file aside if it is full.

        Raises:
            Unavailable: Envoy does not answer; until the next turn it writes to the file that was put aside.
        """
        if not self._file.exists():
            if self._aside(1).exists():  # it did not hear of it when the file was put aside
                await self._admin.reopen_logs()
            return
        if self._file.stat().st_size < self._max_bytes:
            return
        for number in range(self._backups, 0, -1):
            source = self._aside(number - 1)
            if source.exists():
                source.replace(self._aside(number))
        await self._admin.reopen_logs()

    def _aside(self, number: int) -> Path:
        return self._file.with_suffix(f".{number}.log") if number else self._file
