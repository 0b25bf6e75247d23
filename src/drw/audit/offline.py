"""Offline verification of the audit log from its folder, without platform and database.

Run `drw audit verify --offline FOLDER`, or `python -m drw.audit.offline FOLDER`. The folder has a public layout (C2SP
tlog-tiles), so that other tools can verify it too. `drw.audit.log.database_verification` also verifies the database.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.file_verification import FileVerification
from drw.audit.tlog.note import Verifier
from drw.kernel.errors import DrwError, NotFound

VERIFIER_KEY = "verifier.key"
"""File with the public key of the log. For independent verification, use an earlier copy of the key."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a verification."""

    records: int
    """Number of verified records."""
    problem: str
    """The first problem; empty: the log is intact."""
    note: str
    """The signed checkpoint, to store for the next verification."""

    @property
    def ok(self) -> bool:
        """Whether the log is intact."""
        return not self.problem


def verify(folder: Path, verifier_key: str = "", earlier_note: str = "") -> Report:
    """Verify the whole log in a folder against its signed checkpoint.

    Without a verifier key, the key in the folder is used. It proves that the log is consistent, not who signed it.

    Raises:
        NotFound: the folder has no log.
        InvalidRequest: the key or the earlier note is invalid.
    """
    verifier = Verifier.parse(verifier_key or _key_of_folder(folder))
    records = 0
    note = ""
    try:
        verification = FileVerification(lambda path: _read(folder / path), verifier, earlier_note)
        note = verification.note
        for bundle in verification.bundles():
            records = bundle.start + len(bundle.entries)
    except LogDamaged as error:
        return Report(records, error.message, note)
    return Report(records, "", note)


def _key_of_folder(folder: Path) -> str:
    if (key := _read(folder / VERIFIER_KEY)) is None:
        raise NotFound(f"{str(folder)!r} has no {VERIFIER_KEY}: is it the folder of an audit log?")
    return key.decode(errors="replace")


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the result; return 0 if the log is intact."""
    parser = argparse.ArgumentParser(prog="python -m drw.audit.offline", description="Verify an audit log.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", default="", help="the verifier key; default: the key in the folder")
    parser.add_argument("--earlier", type=Path, help="an earlier checkpoint, which the log must extend")
    options = parser.parse_args(arguments)
    try:
        report = verify(
            options.folder, options.key, options.earlier.read_text(encoding="utf-8") if options.earlier else ""
        )
    except (DrwError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report.note, end="")
    print(f"problem: {report.problem}" if report.problem else f"{report.records} records, all unchanged")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
