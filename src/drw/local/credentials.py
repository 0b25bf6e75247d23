"""Credentials of the command line: the gateway's address and an API key."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from drw.kernel.errors import InvalidRequest, NotFound
from drw.local.paths import PlatformPaths

ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The gateway's address and an API key."""

    url: str
    key: str
    socket: str = ""
    """The operators' socket of a local gateway, or "". It answers even when the port has no connection left."""

    @classmethod
    def of(cls, data_dir: Path | None) -> Credentials:
        """Return the credentials from the environment, or else from the data folder.

        Raises:
            InvalidRequest: the environment is incomplete or malformed, or a data folder is given too.
        """
        if (remote := cls._from_environment()) is None:
            return cls.read(PlatformPaths.of(data_dir))
        if data_dir is not None:
            raise InvalidRequest(
                f"DRW_URL names one platform and the data folder {str(data_dir)!r} another: "
                "unset DRW_URL and DRW_API_KEY, or leave out --data-dir and DRW_DATA_DIR"
            )
        return remote

    @classmethod
    def read(cls, paths: PlatformPaths) -> Credentials:
        """Read the credentials of a local platform."""
        try:
            stored = json.loads(paths.credentials.read_text(encoding="utf-8"))
            url, key = str(stored["url"]), str(stored["api_key"])
        except FileNotFoundError:
            raise NotFound(
                f"no platform was started in {paths.data}: start one with `drw up`, or set DRW_URL and DRW_API_KEY"
            ) from None
        except (ValueError, LookupError, TypeError):
            raise InvalidRequest(
                f"{paths.credentials} is damaged: remove it, and the next `drw up` makes a new key"
            ) from None
        socket = str(paths.operators_socket) if paths.operators_socket.is_socket() else ""
        return cls(url, key, socket)

    @classmethod
    def _from_environment(cls) -> Credentials | None:
        url, key = os.environ.get("DRW_URL", ""), os.environ.get("DRW_API_KEY", "")
        if not url and not key:
            return None
        if not url or not key:
            present, missing = ("DRW_URL", "DRW_API_KEY") if url else ("DRW_API_KEY", "DRW_URL")
            raise InvalidRequest(
                f"{present} is set and {missing} is not: set both for a platform elsewhere, "
                "or neither for the one on this machine"
            )
        if not ADDRESS.fullmatch(url):
            present = "" if "@" in url else f" {url!r}"  # the part before an @ may be a password
            raise InvalidRequest(f"DRW_URL{present} is not an address: write it as in https://HOST or http://HOST:PORT")
        if not KEY.fullmatch(key):
            raise InvalidRequest("DRW_API_KEY has characters that no key has: copy it again, without spaces and quotes")
        return cls(url.rstrip("/"), key)


def local_paths(data_dir: Path | None) -> PlatformPaths:
    """Return the local platform, for commands that only work locally.

    Raises:
        InvalidRequest: the environment names a remote platform, and no data folder is given.
    """
    variables = [name for name in ("DRW_URL", "DRW_API_KEY") if os.environ.get(name)]
    if variables and data_dir is None:
        raise InvalidRequest(
            f"{' and '.join(variables)} {'are' if len(variables) > 1 else 'is'} set, and this command is for a "
            "platform on this machine only: unset what is set, or name its folder with --data-dir"
        )
    return PlatformPaths.of(data_dir)


def write(file: Path, url: str, key: str) -> None:
    """Write the credentials, readable by this user only."""
    draft = file.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps({"url": url, "api_key": key}), encoding="utf-8")
    draft.replace(file)
