"""Where everything of one local platform lies: its data, its sockets, its profile."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drw.catalog import CLUSTERS, SERVICES, SUPPORT
from drw.kernel.errors import Forbidden
from drw.local import postgres, valkey

ENGINE_SLOTS = 4
SLOT_TOKENS = 2048

OPERATORS_FILE = """\
# Your own settings for this platform; they win over profile.toml. For example, another default model:
# services.discovery.models.large = { engine = "openai", base_url = "http://127.0.0.1:8000/v1", default = true }
"""


def default_data() -> Path:
    """Return the data folder where none is named: `.drw` beside the virtual environment."""
    if named := os.environ.get("DRW_DATA_DIR"):
        return Path(named)
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix).parent / ".drw"
    return Path.home() / ".local" / "share" / "drw"


@dataclass(frozen=True, slots=True)
class PlatformPaths:
    """The folders and files of the platform in one data folder."""

    data: Path

    @classmethod
    def of(cls, data: Path | None) -> PlatformPaths:
        """Return the layout of a data folder, or of the default one."""
        return cls((data or default_data()).expanduser().resolve())

    @property
    def run(self) -> Path:
        """Where the sockets are. Not in the data folder, since the path of a socket must be short."""
        name = hashlib.sha256(str(self.data).encode()).hexdigest()[:12]
        return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"drw-{os.getuid()}-{name}"

    @property
    def lock(self) -> Path:
        """Held for as long as the platform runs."""
        return self.data / "lock"

    @property
    def control(self) -> Path:
        """The socket on which the supervisor answers."""
        return self.run / "control.sock"

    @property
    def credentials(self) -> Path:
        """The address of the gateway and the first API key."""
        return self.data / "credentials.json"

    @property
    def profile(self) -> Path:
        """The profile that `drw up` writes."""
        return self.data / "profile.toml"

    @property
    def secrets(self) -> Path:
        """The secrets that `drw up` made for this platform, once."""
        return self.data / "secrets.toml"

    @property
    def settings(self) -> Path:
        """The operator's own settings."""
        return self.data / "drw.toml"

    @property
    def weights(self) -> Path:
        """The models' files; made once, and shared by all platforms of a virtual environment."""
        return Path(sys.prefix) / "share" / "drw" if sys.prefix != sys.base_prefix else self.data / "weights"

    @property
    def operators(self) -> Path:
        """The socket at which the gateway answers this user, however many clients are connected to its port."""
        return self.run / "operators.sock"

    @property
    def engine(self) -> Path:
        """The socket of the language model's engine."""
        return self.run / "engine.sock"

    @property
    def files(self) -> list[Path]:
        """The files that make the profile, the later ones on top."""
        secrets = [self.secrets] if self.secrets.exists() else []  # a platform of the first release has none yet
        return [self.profile, *secrets, self.settings]

    @property
    def starts(self) -> Path:
        """How long each part took to start when it last did."""
        return self.data / "starts.json"

    def log(self, part: str) -> Path:
        """Return the log of a part."""
        return self.data / "logs" / f"{part}.log"

    def prepare(self) -> None:
        """Make the folders, for this user alone.

        Raises:
            Forbidden: the folder of the sockets is somebody else's.
        """
        for folder in (self.data, self.data / "logs", self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stat = self.run.lstat()
        if stat.st_uid != os.getuid() or self.run.is_symlink():
            raise Forbidden(f"{self.run} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of your own")
        self.run.chmod(0o700)
        if not self.settings.exists():
            self.settings.write_text(OPERATORS_FILE, encoding="utf-8")

    def make_secrets(self) -> None:
        """Make the platform's secrets where there are none yet, for this user alone.

        They are never made again: what is sealed under them would not open any more.
        """
        if self.secrets.exists():
            return
        values = {"services": {"authentication": {"secret": secrets.token_urlsafe(48)}}}
        draft = self.secrets.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with open(draft, "x", encoding="utf-8", opener=_private) as out:
            out.write("# Made by `drw up`, once: the signing keys are sealed under it. Keep it.\n" + toml(values))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.secrets)

    def write_profile(self, listen: str) -> None:
        """Write the profile."""
        values = toml(self.profile_of(listen))
        self.profile.write_text(f"# Written by `drw up`; your own settings go into drw.toml.\n{values}")

    def profile_of(self, listen: str) -> dict[str, Any]:
        """Return the profile of a laptop: one process a cluster, everything on Unix sockets."""
        names = {c: [s.name for s in SERVICES if s.cluster == c] for c in CLUSTERS}
        names["gateway"] += [s.name for s in SUPPORT]
        return {
            "name": "laptop",
            "data": str(self.data / "services"),
            "starts": str(self.starts),
            "postgres": postgres.dsn(self.run / "pg"),
            "valkey": valkey.url(self.run / "valkey.sock"),
            "data_plane": {
                "listen": listen,
                "operators": f"unix:{self.operators}",
                "folder": str(self.data / "envoy"),
                "admin": f"unix:{self.run}/envoy.sock",
                "metrics": f"unix:{self.run}/agent.http",
            },
            "processes": {
                cluster: {
                    "services": services,
                    "grpc": f"unix:{self.run}/{cluster}.grpc",
                    "http": f"unix:{self.run}/{cluster}.http",
                }
                for cluster, services in names.items()
            },
            "services": self._services(),
        }

    def _services(self) -> dict[str, Any]:
        return {
            "discovery": {
                "default_model": "smollm2-135m-instruct",
                "models": {
                    "smollm2-135m-instruct": {
                        "kind": "chat",
                        "engine": "llama_cpp",
                        "base_url": f"unix:{self.engine}",
                        "upstream_model": "smollm2-135m-instruct",
                        "context_length": SLOT_TOKENS,
                        "max_concurrent": ENGINE_SLOTS,
                        "sampling": {"repeat_penalty": 1.1},  # it repeats itself without end otherwise
                        "owned_by": "HuggingFaceTB",
                        "licence": "Apache-2.0",
                    },
                    "all-minilm-l6-v2": {
                        "kind": "embedding",
                        "engine": "onnx",
                        "dimensions": 384,
                        "context_length": 256,
                        "owned_by": "sentence-transformers",
                        "licence": "Apache-2.0",
                    },
                },
            },
            "embedding": {"encoder": "onnx", "onnx": {"folder": str(self.weights / "all-minilm-l6-v2")}},
            "vector_store": {"index": "pgvector"},
        }


def toml(values: Mapping[str, Any], table: str = "") -> str:
    """Return nested mappings of strings, numbers, flags and lists as TOML."""
    lines = [f"{_key(k)} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in values.items():
        if isinstance(value, dict):
            name = f"{table}{_key(key)}"
            text += f"\n[{name}]\n" + toml(value, f"{name}.")
    return text


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
