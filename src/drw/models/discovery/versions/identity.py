"""Ids of versions: the model, "@" and the first digits of the digest."""

from __future__ import annotations

import re
from typing import NamedTuple

VERSION_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:/@-]{0,127})@([0-9a-f]{12,64})")
DIGEST = "sha256:"


class VersionName(NamedTuple):
    """A reference to a version: its model, and 12 to 64 digits of its digest."""

    model: str
    prefix: str


def parse(name: str) -> VersionName | None:
    """Return the reference that a name makes to a version; None: it names something else."""
    match = VERSION_ID.fullmatch(name)
    return VersionName(match[1], match[2]) if match else None


def version_id(model: str, digest: str) -> str:
    """Return the id of a version from its full digest."""
    return f"{model}@{digest.removeprefix(DIGEST)[:12]}"
