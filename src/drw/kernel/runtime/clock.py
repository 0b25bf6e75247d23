"""Injectable clock, which tests can replace."""

from __future__ import annotations

import asyncio


class Clock:
    """The clock of the event loop, which `asyncio.timeout` uses too."""

    def time(self) -> float:
        """Return the time in seconds since an arbitrary moment."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Sleep for this number of seconds."""
        await asyncio.sleep(seconds)
