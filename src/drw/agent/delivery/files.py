"""The configuration files of Envoy: one per resource kind, replaced atomically and only on change."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
from google.protobuf.message import DecodeError

from drw.agent.native_filter import ZERO_SEED
from drw.agent.xds import tls
from drw.agent.xds.builders import Json
from drw.agent.xds.clusters import FALLBACK_SEPARATOR
from drw.agent.xds.routes import entries
from drw.agent.xds.translation import KINDS, EdgeOptions, bootstrap
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.kernel.runtime.settings import Tls

INDENTED_KINDS = ("clusters", "routes", "listeners")
"""Kinds written for people to read. The other files grow with the number of keys."""


class ConfigFiles:
    """The configuration files on disk."""

    def __init__(self, edge: EdgeOptions) -> None:
        self._edge = edge
        self._written: dict[str, tuple[str, bytes]] = {}

    def complete(self) -> bool:
        """Return whether the files suffice to start Envoy."""
        return all(self._edge.file(kind).exists() for kind in KINDS)

    def write(self, resources: Mapping[str, list[Json]], version: str, kinds: Sequence[str] = KINDS) -> tuple[str, ...]:
        """Write the kinds that changed, in order; return their names.

        A removed cluster stays while the routes on disk name it, because routes are replaced after clusters and
        active requests still need it.
        """
        written = []
        for kind in kinds:
            resource_list = resources[kind]
            if kind == "clusters":
                resource_list = _with_referenced_clusters(
                    resource_list, self._resources(kind), self._resources("routes")
                )
            serialized = orjson.dumps(resource_list)
            if serialized != self._current(kind)[1]:
                content = {"version_info": version, "resources": resource_list}
                write_json(self._edge.file(kind), content, indented=kind in INDENTED_KINDS)
                self._written[kind] = version, serialized
                written.append(kind)
        return tuple(written)

    def write_bootstrap(self) -> None:
        """Write the bootstrap file. Envoy can start afterwards."""
        if self._edge.plane.tls:
            self._write_secrets(self._edge.plane.tls)
        write_json(self._edge.plane.folder / "bootstrap.json", bootstrap(self._edge))

    def _write_secrets(self, settings: Tls) -> None:
        for name, secret in tls.secrets(settings).items():
            file, content = self._edge.secrets / name / f"{name}.json", {"resources": [secret]}
            if not file.exists() or orjson.loads(file.read_bytes()) != content:
                write_json(file, content)

    def versions(self, kinds: Sequence[str] = KINDS) -> dict[str, str]:
        """Return the last written version of each kind."""
        return {kind: self._current(kind)[0] for kind in kinds}

    def backup(self, kinds: Sequence[str] = KINDS) -> dict[str, bytes]:
        """Return a copy of the files, for `restore`."""
        return {kind: self._edge.file(kind).read_bytes() for kind in kinds if self._edge.file(kind).exists()}

    def restore(self, backup: Mapping[str, bytes]) -> None:
        """Restore files from a backup."""
        for kind, content in backup.items():
            if self._edge.file(kind).read_bytes() != content:
                _write_atomically(self._edge.file(kind), content)
                self._written.pop(kind, None)

    def _current(self, kind: str) -> tuple[str, bytes]:
        """Return the version and resources on disk, cached because no other process writes there."""
        if kind not in self._written:
            self._written[kind] = _parse(self._edge.file(kind))
        return self._written[kind]

    def write_last_good(self, configuration: Configuration) -> None:
        """Store the state that Envoy accepted, as fallback when part of a newer one is rejected."""
        _write_atomically(self._last_good, configuration.SerializeToString())

    def read_last_good(self) -> Configuration | None:
        """Return the state stored by `write_last_good`, or None."""
        try:
            return Configuration.FromString(self._last_good.read_bytes())
        except (OSError, DecodeError):
            return None

    @property
    def _last_good(self) -> Path:
        return self._edge.plane.folder / "good" / "configuration.binpb"

    def _resources(self, kind: str) -> list[Json]:
        document: list[Json] = orjson.loads(self._current(kind)[1])
        return document


def read_seed(folder: Path) -> bytes:
    """Return the hash seed of this data plane, generating it on first use."""
    file = folder / "seed"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = folder / ".seed.new"
        draft.touch(mode=0o600)
        draft.write_bytes(secrets.token_bytes(len(ZERO_SEED)))
        draft.replace(file)
    return file.read_bytes()


def _with_referenced_clusters(clusters: list[Json], current: list[Json], table: list[Json]) -> list[Json]:
    names = {cluster["name"] for cluster in clusters}
    referenced = {
        name for entry in _route_entries(table) if "route" in entry for name in _target_clusters(entry["route"])
    }
    return [*clusters, *(cluster for cluster in current if cluster["name"] in referenced - names)]


def _target_clusters(action: Json) -> list[str]:
    shares = action.get("weighted_clusters", {}).get("clusters", [])
    targets = [share["name"] for share in shares] or [action["cluster"]]
    return [name for target in targets for name in (target, *target.split(FALLBACK_SEPARATOR))]


def _route_entries(table: list[Json]) -> list[Json]:
    return [entry for table_part in table for host in table_part["virtual_hosts"] for entry in entries(host)]


def _parse(file: Path) -> tuple[str, bytes]:
    try:
        document = orjson.loads(file.read_bytes())
        return document["version_info"], orjson.dumps(document["resources"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError):
        return "", b"[]"


def write_json(file: Path, content: Json, *, indented: bool = True) -> None:
    """Replace a file with JSON atomically."""
    _write_atomically(file, orjson.dumps(content, option=orjson.OPT_INDENT_2 if indented else 0))


def _write_atomically(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Beside the folder, because Envoy reloads its folder whenever anything moves into it.
    draft = file.parent.parent / f".{file.name}.new"
    with draft.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())  # fsync, so that a power loss does not leave an empty file
    draft.chmod(0o600)
    draft.replace(file)
