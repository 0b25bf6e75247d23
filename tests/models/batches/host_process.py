"""A process that runs services, so that a test can kill or freeze it: `python -m models.batches.host_process FILE`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile

SERVICES = ["discovery", "serving"]


async def main(file: Path) -> None:
    profile = Profile.model_validate_json(file.read_text())
    host = Host(profile, "worker", SERVICES)
    await host.start(f"unix:{file}.g", f"unix:{file}.h")
    file.with_suffix(".ready").touch()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
