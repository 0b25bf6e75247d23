"""`drw generate`: writes every file that is made from another, and compares the code with the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from drw.cli import reference
from drw.generate import checks, openapi, pages
from drw.generate.contracts import API, contracts
from drw.generate.protos import ROOT

Generator = Callable[[], dict[str, str]]
"""Returns the text of files by their path in the checkout."""


def _commands() -> dict[str, str]:
    from drw.cli.main import app  # which has this command, too

    return {reference.PATH: reference.reference(app)}


GENERATORS: tuple[Generator, ...] = (contracts, openapi.files, pages.files, _commands)


def add_to(app: typer.Typer) -> None:
    """Add the command, which only those need who work on the platform itself."""

    @app.command("generate", hidden=True)
    def generate(
        check: Annotated[bool, typer.Option("--check", help="Write nothing: say what is not up to date.")] = False,
    ) -> None:
        """Make again what is made from the contracts, the catalog and the commands."""
        raise typer.Exit(run(check))


def run(check: bool) -> int:
    """Write all generated files, or only compare them; return 0 where everything is as it should be."""
    made = {path: text for generator in GENERATORS for path, text in generator().items()}
    stale = sorted(path for path, text in made.items() if _present(ROOT / path) != text)
    orphans = sorted(path for path in _generated(ROOT) if path not in made)
    if check:
        found = [f"{path} is not up to date: run `drw generate`" for path in stale]
        found += [f"{path} is made from no proto file any more: run `drw generate`" for path in orphans]
    else:
        found = []
        _write({path: made[path] for path in stale}, orphans)
    found += checks.problems()
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def _write(made: dict[str, str], orphans: list[str]) -> None:
    for path, text in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    for path in orphans:
        (ROOT / path).unlink()
        print(f"removed {path}")


def _present(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _generated(root: Path) -> list[str]:
    """Return the files below drw.api's folders; all that is written by hand lies beside them."""
    return [str(file.relative_to(root)) for file in sorted((root / API).glob("*/**/*.py*")) if file.suffix != ".pyc"]


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
