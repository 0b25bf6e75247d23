"""The key that signs checkpoints: made at the first start, in a file that only the service's user can read."""

from __future__ import annotations

import os
from pathlib import Path

from drw.audit.tlog.note import Signer
from drw.kernel.runtime.settings import ConfigError


def load_or_make(file: Path, origin: str, *, used: bool) -> Signer:
    """Return the log's key; `used`: checkpoints exist, so a new key would be wrong.

    Raises:
        ConfigError: the key is missing, or belongs to another log.
    """
    try:
        signer = Signer.parse(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        if used:
            raise ConfigError(f"the log's key {str(file)!r} is gone: bring it back from a backup") from None
        signer = _make(file, origin)
    if signer.verifier.name != origin:
        raise ConfigError(f"the log's key is of {signer.verifier.name!r}; log.origin is {origin!r}: it cannot change")
    return signer


def _make(file: Path, origin: str) -> Signer:
    signer = Signer.generate(origin)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(signer.secret_text() + "\n")
        out.flush()
        os.fsync(out.fileno())
    try:
        file.hardlink_to(unfinished)  # fails where another process was first, which `replace` would not
    except FileExistsError:
        signer = Signer.parse(file.read_text(encoding="ascii"))
    finally:
        unfinished.unlink()
    return signer
