"""`drw generate`: writes all generated files, and checks the code against the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import typer

from drw.generate import checks, event_schemas, native_modules, rest_routes
from drw.generate.contracts import API, contracts
from drw.generate.kubernetes import chart
from drw.generate.observability import dashboards, slo_rules
from drw.generate.protos import ROOT
from drw.generate.reference import asyncapi, cli, openapi, pages, settings, template_schema

Generator = Callable[[], dict[str, str]]
"""Returns file contents by path in the checkout."""


GENERATORS: tuple[Generator, ...] = (
    contracts,
    rest_routes.files,
    openapi.files,
    asyncapi.files,
    event_schemas.files,
    pages.files,
    settings.files,
    template_schema.files,
    dashboards.files,
    slo_rules.files,
    chart.files,
)


def run(app: typer.Typer, check: bool) -> int:
    """Write all generated files, or only compare them; return 0 if everything is up to date.

    `app` is the complete command, which the reference of the command line describes.
    """
    generated = {path: text for generator in GENERATORS for path, text in generator().items()}
    generated |= cli.files(app)
    for line in [] if check else [*write(generated, ROOT), *native_modules.write()]:
        print(line)
    wrong = [*differences(generated, ROOT), *native_modules.problems(), *checks.problems(), *event_schemas.problems()]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def differences(generated: Mapping[str, str], root: Path) -> list[str]:
    """Return a message for each file that is not up to date."""
    return [
        *(f"{path} is not up to date: run `drw generate`" for path in _stale(generated, root)),
        *(f"{path} is obsolete: run `drw generate`" for path in _orphans(generated, root)),
    ]


def write(generated: Mapping[str, str], root: Path) -> list[str]:
    """Write changed files, remove obsolete ones, and return the changes."""
    changes = []
    for path in _stale(generated, root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(generated[path], encoding="utf-8")
        changes.append(f"wrote {path}")
    for path in _orphans(generated, root):
        (root / path).unlink()
        changes.append(f"removed {path}")
    return changes


def _stale(generated: Mapping[str, str], root: Path) -> list[str]:
    return sorted(path for path, text in generated.items() if _current_text(root / path) != text)


def _orphans(generated: Mapping[str, str], root: Path) -> list[str]:
    # Handwritten files are outside the folders of the clusters.
    generated_files = (str(file.relative_to(root)) for file in (root / API).glob("*/**/*.py*") if file.suffix != ".pyc")
    return sorted(path for path in generated_files if path not in generated)


def _current_text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
