"""Paths of one local platform: data, sockets, profile."""

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

from drw.catalog import BY_NAME, CLUSTERS
from drw.kernel.errors import Forbidden
from drw.local import postgres, valkey

ENGINE_SLOTS = 4
SLOT_TOKENS = 2048

SETTINGS_TEMPLATE = """\
# Your own settings for this platform; they override profile.toml. For example, another default model:
# services.discovery.models.large = { engine = "openai", base_url = "http://127.0.0.1:8000/v1", default = true }
"""


def default_data() -> Path:
    """Return the default data folder: `.drw` beside the virtual environment."""
    if configured := os.environ.get("DRW_DATA_DIR"):
        return Path(configured)
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix).parent / ".drw"
    return Path.home() / ".local" / "share" / "drw"


@dataclass(frozen=True, slots=True)
class PlatformPaths:
    """Folders and files of the platform in one data folder."""

    data: Path

    @classmethod
    def of(cls, data: Path | None) -> PlatformPaths:
        """Return the paths of a data folder, or of the default one."""
        return cls((data or default_data()).expanduser().resolve())

    @property
    def run(self) -> Path:
        """The folder of the sockets. Outside the data folder, because socket paths must be short."""
        name = hashlib.sha256(str(self.data).encode()).hexdigest()[:12]
        return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"drw-{os.getuid()}-{name}"

    @property
    def lock(self) -> Path:
        """The lock file, held while the platform runs."""
        return self.data / "lock"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.run / "control.sock"

    @property
    def credentials(self) -> Path:
        """The address of the gateway and the first API key."""
        return self.data / "credentials.json"

    @property
    def profile(self) -> Path:
        """The profile, written by `drw up`."""
        return self.data / "profile.toml"

    @property
    def secrets(self) -> Path:
        """The secrets, generated once by `drw up`."""
        return self.data / "secrets.toml"

    @property
    def settings(self) -> Path:
        """The operator's settings."""
        return self.data / "drw.toml"

    @property
    def weights(self) -> Path:
        """Model files, built once and shared by all platforms of a virtual environment."""
        return Path(sys.prefix) / "share" / "drw" if sys.prefix != sys.base_prefix else self.data / "weights"

    @property
    def certificates(self) -> Path:
        """The folder of the certificates that `drw up --mtls` issues."""
        return self.data / "tls"

    @property
    def operators_socket(self) -> Path:
        """The gateway's socket for operators, which answers even when the port has no connection left."""
        return self.run / "operators.sock"

    @property
    def engine(self) -> Path:
        """The socket of the language model engine."""
        return self.run / "engine.sock"

    @property
    def files(self) -> list[Path]:
        """The files of the profile; later files override earlier ones."""
        secrets = [self.secrets] if self.secrets.exists() else []  # platforms of the first release have none
        return [self.profile, *secrets, self.settings]

    @property
    def start_times(self) -> Path:
        """The last start-up time of each process."""
        return self.data / "starts.json"

    def log(self, process: str) -> Path:
        """Return the log file of a process."""
        return self.data / "logs" / f"{process}.log"

    def prepare(self) -> None:
        """Create the folders, accessible to this user only.

        Raises:
            Forbidden: the socket folder belongs to another user.
        """
        for folder in (self.data, self.data / "logs", self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stat = self.run.lstat()
        if stat.st_uid != os.getuid() or self.run.is_symlink():
            raise Forbidden(f"{self.run} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of your own")
        self.run.chmod(0o700)
        if not self.settings.exists():
            self.settings.write_text(SETTINGS_TEMPLATE, encoding="utf-8")

    def create_secrets(self) -> None:
        """Generate the platform's secrets if missing, readable by this user only.

        They are never regenerated: data encrypted with them would become unreadable.
        """
        if self.secrets.exists():
            return
        values = {"services": {"authentication": {"secret": secrets.token_urlsafe(48)}}}
        draft = self.secrets.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with open(draft, "x", encoding="utf-8", opener=_open_private) as out:
            out.write("# Generated once by `drw up`. The signing keys are encrypted with it: keep it.\n" + toml(values))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.secrets)

    def write_profile(self, listen: str) -> None:
        """Write the profile."""
        values = toml(self.profile_values(listen))
        self.profile.write_text(f"# Written by `drw up`; your own settings go into drw.toml.\n{values}")

    def profile_values(self, listen: str) -> dict[str, Any]:
        """Return the laptop profile: one process for each cluster, all on Unix sockets."""
        services_by_cluster = {c: [s.name for s in BY_NAME.values() if s.process == c] for c in CLUSTERS}
        return {
            "name": "laptop",
            "data": str(self.data / "services"),
            "starts": str(self.start_times),
            "postgres": postgres.dsn(self.run / "pg"),
            "valkey": valkey.url(self.run / "valkey.sock"),
            "data_plane": {
                "listen": listen,
                "operators": f"unix:{self.operators_socket}",
                "folder": str(self.data / "envoy"),
                "admin": f"unix:{self.run}/envoy.sock",
                "metrics": f"unix:{self.run}/agent.http",
            },
            "processes": {
                cluster: {
                    "services": services,
                    "grpc": f"unix:{self.run}/{cluster}.grpc",
                    "http": f"unix:{self.run}/{cluster}.http",
                    **({"inference": f"unix:{self.run}/inference.grpc"} if cluster == "models" else {}),
                }
                for cluster, services in services_by_cluster.items()
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
                        "sampling": {"repeat_penalty": 1.1},  # without it the model repeats itself
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
    """Return nested mappings of strings, numbers, booleans and lists as TOML."""
    lines = [f"{_toml_key(k)} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in values.items():
        if isinstance(value, dict):
            name = f"{table}{_toml_key(key)}"
            text += f"\n[{name}]\n" + toml(value, f"{name}.")
    return text


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
