"""Trusted signers of model files, from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import ConfigError
from drw.model_files.signatures.trust import TrustPolicy


def policy(keys: Sequence[Path], roots: Sequence[Path]) -> TrustPolicy:
    """Return the policy from PEM files.

    Raises:
        ConfigError: a file cannot be read, or is not PEM.
    """
    try:
        return TrustPolicy.load([path.read_bytes() for path in keys], [path.read_bytes() for path in roots])
    except OSError as error:
        raise ConfigError(f"discovery: {error.filename} cannot be read: {error.strerror}") from error
    except InvalidRequest as error:
        raise ConfigError(f"discovery: trusted_keys or trusted_roots: {error.message}") from error
