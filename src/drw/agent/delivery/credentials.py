"""Upstream credentials: files that an operator places beside the data plane.

They never leave the machine: no API, log or configuration version contains one. Envoy reads them from secret files
that only this user can read, and reloads them without a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from drw.agent.delivery.files import write_json
from drw.agent.xds.builders import Json, typed
from drw.agent.xds.translation import EdgeOptions
from drw.api.gateway.v1.load_balancer_pb2 import Upstream

MAX_BYTES = 8192


class EnvoyCredentials:
    """The credentials of one data plane: `credentials/NAME` in its folder, one per file."""

    def __init__(self, edge: EdgeOptions) -> None:
        self._edge = edge
        self._written: dict[str, str] = {}

    def refresh(self, upstreams: Iterable[Upstream]) -> list[str]:
        """Write new and changed secret files for Envoy; return a message about missing credentials."""
        missing = []
        for upstream in upstreams:
            if not (name := upstream.credential):
                continue
            file = self._edge.plane.folder / "credentials" / name
            if not (value := _read_credential(file)):
                missing.append(f"the upstream {upstream.name!r} needs its credential in the file {str(file)!r}")
            secret_file = Path(self._edge.secret(name))
            if self._written.get(name) != value or not secret_file.exists():
                write_json(secret_file, {"resources": [_generic_secret(name, value)]})
                self._written[name] = value
        return missing


def _read_credential(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if len(text) <= MAX_BYTES and text.isprintable() else ""


def _generic_secret(name: str, value: str) -> Json:
    # Without one Envoy rejects the request, so that none is sent without its credential.
    secret = {"secret": {"inline_string": value}}
    return typed("envoy.extensions.transport_sockets.tls.v3.Secret", name=name, generic_secret=secret)
