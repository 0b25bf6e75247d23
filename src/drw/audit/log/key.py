"""Signing key of the checkpoints: created at the first start, in a file that only the service's user can read."""

from __future__ import annotations

import os
from pathlib import Path

from drw.audit.tlog.note import Signer
from drw.kernel.runtime.settings import ConfigError


def load_or_create(file: Path, origin: str, *, has_checkpoints: bool) -> Signer:
    """Load the key of the log, or create it, unless the log has checkpoints.

    Raises:
        ConfigError: the key of a log with checkpoints is missing, or the key belongs to another log.
    """
    try:
        signer = Signer.parse(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        if has_checkpoints:
            raise ConfigError(f"the log's key {str(file)!r} is missing: restore it from a backup") from None
        signer = _create(file, origin)
    if signer.verifier.name != origin:
        raise ConfigError(f"the log's key is of {signer.verifier.name!r}; log.origin is {origin!r}: it cannot change")
    return signer


def _create(file: Path, origin: str) -> Signer:
    signer = Signer.generate(origin)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(signer.secret_text() + "\n")
        out.flush()
        os.fsync(out.fileno())
    try:
        file.hardlink_to(temporary)  # unlike `replace`, fails if another process has created the key
    except FileExistsError:
        signer = Signer.parse(file.read_text(encoding="ascii"))
    finally:
        temporary.unlink()
    return signer
