"""Access log rotation: a full file is renamed, and the oldest is deleted."""

from __future__ import annotations

from pathlib import Path

from drw.agent.adapters.envoy_admin import EnvoyAdmin

MAX_BYTES = 64 << 20
BACKUPS = 5
ANONYMOUS_BACKUPS = 1


class AccessLog:
    """One access log of Envoy: `access.log`, and `access.1.log` (newest) to `access.5.log`."""

    def __init__(self, file: Path, admin: EnvoyAdmin, max_bytes: int = MAX_BYTES, backups: int = BACKUPS) -> None:
        self._file = file
        self._admin = admin
        self._max_bytes = max_bytes
        self._backups = backups

    async def rotate(self) -> None:
        """Rotate the file if it is full.

        Raises:
            Unavailable: Envoy does not answer. It writes to the renamed file until the next call.
        """
        if not self._file.exists():
            if self._numbered(1).exists():  # Envoy missed the last rotation
                await self._admin.reopen_logs()
            return
        if self._file.stat().st_size < self._max_bytes:
            return
        for number in range(self._backups, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.replace(self._numbered(number))
        await self._admin.reopen_logs()

    def _numbered(self, number: int) -> Path:
        return self._file.with_suffix(f".{number}.log") if number else self._file
