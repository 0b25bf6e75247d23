"""Where the command line finds a platform and a key for it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from drw.kernel.errors import NotFound
from drw.local.layout import Layout


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the gateway is, and a key for it."""

    url: str
    key: str
    socket: str = ""
    """The socket of a local platform's gateway, where there is one: it answers however busy the port is."""

    @classmethod
    def read(cls, layout: Layout) -> Credentials:
        """Read the credentials of a local platform, or those that the environment gives."""
        if (url := os.environ.get("DRW_URL")) and (key := os.environ.get("DRW_API_KEY")):
            return cls(url.rstrip("/"), key)
        try:
            kept = json.loads(layout.credentials.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(
                f"no platform was started in {layout.data}: start one with `drw up`, or set DRW_URL and DRW_API_KEY"
            ) from None
        socket = str(layout.operators) if layout.operators.is_socket() else ""
        return cls(kept["url"], kept["api_key"], socket)


def write(file: Path, url: str, key: str) -> None:
    """Write the credentials, for this user alone."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"url": url, "api_key": key}), encoding="utf-8")
    new.replace(file)
