"""Verifies an audit trail from its folder alone: no platform, no database; `python -m drw.audit.verify FOLDER`.

The folder has a public layout (C2SP tlog-tiles), so other tools can do the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.note import Verifier
from drw.audit.tlog.walk import LogWalk
from drw.kernel.errors import DrwError, NotFound

VERIFIER_KEY = "verifier.key"
"""The log's public key in its folder. For independent verification, use an earlier copy."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found."""

    records: int
    """How many were read and found right."""
    problem: str
    """The first thing found wrong; empty: nothing was."""
    note: str
    """The signed checkpoint, to keep for the next time."""

    @property
    def ok(self) -> bool:
        """Whether everything was right."""
        return not self.problem


def verify(folder: Path, verifier_key: str = "", earlier_note: str = "") -> Report:
    """Read the whole log in a folder and compare it with its signed checkpoint.

    Without a key the folder's own is taken, which shows that the log agrees with itself, and not whose it is.

    Raises:
        NotFound: the folder has no log.
        InvalidRequest: the key or the earlier note is not one.
    """
    verifier = Verifier.parse(verifier_key or _own_key(folder))
    records = 0
    note = ""
    try:
        walk = LogWalk(lambda path: _read(folder / path), verifier, earlier_note)
        note = walk.note
        for bundle in walk.bundles():
            records = bundle.start + len(bundle.entries)
    except LogDamaged as error:
        return Report(records, error.message, note)
    return Report(records, "", note)


def _own_key(folder: Path) -> str:
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
    parser = argparse.ArgumentParser(prog="python -m drw.audit.verify", description="Verify an audit trail.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", default="", help="the verifier key; default: the folder's own")
    parser.add_argument("--earlier", type=Path, help="a checkpoint kept earlier, which the log must extend")
    options = parser.parse_args(arguments)
    try:
        report = verify(
            options.folder, options.key, options.earlier.read_text(encoding="utf-8") if options.earlier else ""
        )
    except (DrwError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report.note, end="")
    print(f"problem: {report.problem}" if report.problem else f"{report.records} records, all as they were written")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
