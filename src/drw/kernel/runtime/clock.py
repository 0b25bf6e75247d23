"""Injectable clock, so that tests can replace time."""

from __future__ import annotations

import asyncio


class Clock:
    """The event loop's own time, which `asyncio.timeout` and every socket's deadline go by too."""

    def time(self) -> float:
        """Return the present in seconds; only differences mean something."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)
