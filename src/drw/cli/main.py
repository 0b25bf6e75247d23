"""The command `drw`: every command, and how errors end."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from drw.cli import access, documents, identity, kill, models, money, platform, routing, settings, trail, workflows
from drw.cli.options import warn
from drw.kernel.errors import (
    DeadlineExceeded,
    DrwError,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
)

app = typer.Typer(
    name="drw",
    help="The DRW AI platform: models, retrieval and workflows behind one gateway.\n\n"
    "Start one with `drw up`, then try `drw chat`, `drw ingest` and `drw ask`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

PLATFORM, USE, OPERATE = "Run a platform", "Use it", "Look after it"
platform.add_to(app, PLATFORM)
models.add_to(app, USE)
documents.add_to(app, USE)
workflows.add_to(app, USE)
access.add_to(app, OPERATE)
identity.add_to(app, OPERATE)
money.add_to(app, OPERATE)
routing.add_to(app, OPERATE)
kill.add_to(app, OPERATE)
trail.add_to(app, OPERATE)
settings.add_to(app, OPERATE)


@app.command("generate", hidden=True)
def generate(
    check: Annotated[bool, typer.Option("--check", help="Write nothing: say what is not up to date.")] = False,
) -> None:
    """Make again what is made from the contracts, the catalog and the commands."""
    from drw.cli.generate import run  # here, since only those need it who work on the platform

    raise typer.Exit(run(check))


EXIT_CODES: dict[type[DrwError], int] = {
    InvalidRequest: 2,
    NotFound: 3,
    Unauthenticated: 4,
    Forbidden: 4,
    RateLimited: 5,
    Unavailable: 5,
    DeadlineExceeded: 5,
}
"""What the command ends with, by the class of the error; 1 for the rest, 130 for Ctrl-C."""


def main() -> None:
    """Run the command, and end with its exit code."""
    try:
        app()
    except DrwError as error:
        warn(f"drw: {error.message}")
        sys.exit(next((EXIT_CODES[c] for c in type(error).__mro__ if c in EXIT_CODES), 1))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `drw ... | head` is no error
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
