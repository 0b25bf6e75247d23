"""Builders of Envoy configuration messages."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

PREFIX = "type.googleapis.com/"


def typed(name: str, /, **fields: Any) -> Json:
    """Return a typed message (`Any`), for example `typed("envoy.config.cluster.v3.Cluster", name="rag")`."""
    return {"@type": f"{PREFIX}{name}", **fields}


def extension(name: str, message: Json) -> Json:
    """Return an extension with its name and typed configuration."""
    return {"name": name, "typed_config": message}


def header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Json:
    """Return a header option that overwrites an existing header."""
    return {"header": {"key": name, "value": value}, "append_action": action}


def address(endpoint: str) -> Json:
    """Return the address of `unix:/path` or `host:port`."""
    if endpoint.startswith("unix:"):
        return {"pipe": {"path": endpoint.removeprefix("unix:")}}
    host, _, port = endpoint.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def private_address(endpoint: str) -> Json:
    """Return the address of `unix:/path`, accessible to this user only, or of `host:port`."""
    socket_address = address(endpoint)
    if "pipe" in socket_address:
        socket_address["pipe"]["mode"] = 0o600
    return socket_address


def file_source(path: str) -> Json:
    """Return a configuration source: one file, alone in its folder, replaced by renaming."""
    folder = path.rpartition("/")[0]
    path_config = {"path": path, "watched_directory": {"path": folder}}
    return {"path_config_source": path_config, "resource_api_version": "V3"}
