"""The `drw` application: command registration and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Annotated

import typer

from drw.cli.help import Sections
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

RUN, USE, OPERATE = "Run a platform", "Use", "Operate"

MODULES = {
    "platform.platform": (RUN, "up down status logs env"),
    "platform.serve": (RUN, "serve migrate first-key data-plane"),
    "models.models": (USE, "chat infer models aliases"),
    "models.batches": (USE, "batches"),
    "models.responses": (USE, "responses"),
    "models.experiments": (USE, "experiments"),
    "models.rollouts": (OPERATE, "rollouts"),
    "rag.documents": (USE, "ingest ask search collections files"),
    "workflow.workflows": (USE, "workflows runs"),
    "workflow.dead_letters": (USE, "dead-letters"),
    "workflow.holds": (OPERATE, "holds"),
    "workflow.schedules": (USE, "schedules"),
    "workflow.triggers": (USE, "triggers"),
    "workflow.templates": (USE, "templates"),
    "gateway.keys": (OPERATE, "keys"),
    "gateway.identities": (OPERATE, "whoami orgs desks issuers certificates"),
    "gateway.billing": (OPERATE, "limits budgets prices spend"),
    "gateway.routes": (OPERATE, "routes upstreams"),
    "gateway.kill": (OPERATE, "kill"),
    "bus": (OPERATE, "events"),
    "audit": (OPERATE, "audit"),
    "platform.health": (OPERATE, "slo"),
    "platform.config": (OPERATE, "config"),
}
"""The help section and commands of each module. Only the module of the given command is imported."""


def make_app(command: str = "") -> typer.Typer:
    """Return the `drw` application, with all commands or only those of the given command's module."""
    app = typer.Typer(
        name="drw",
        cls=Sections,
        help="The DRW AI platform: models, retrieval and workflows behind one gateway.\n\n"
        "Start one with `drw up`, then try `drw chat`, `drw ingest` and `drw ask`.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # importing rich takes longer than most commands
    )
    app.callback()(drw)
    modules = [module for module, (_, commands) in MODULES.items() if command in commands.split()]
    for module in modules or MODULES:
        import_module(f"drw.cli.{module}").add_to(app, MODULES[module][0])
    app.command("generate", hidden=True)(generate)
    return app


def _show_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"drw {version('drw')}")
        raise typer.Exit


def drw(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Root command, for its --version option."""


def generate(
    check: Annotated[bool, typer.Option("--check", help="Only report files that are not up to date.")] = False,
) -> None:
    """Regenerate all files derived from the contracts, the catalog and the commands."""
    from drw.cli.generate import run  # imported here, because only developers need it

    raise typer.Exit(run(make_app(), check))


EXIT_CODES: dict[type[DrwError], int] = {
    InvalidRequest: 2,
    NotFound: 3,
    Unauthenticated: 4,
    Forbidden: 4,
    RateLimited: 5,
    Unavailable: 5,
    DeadlineExceeded: 5,
}
"""Exit code by error class; 1 for all others, 130 for Ctrl-C, 141 if the reader closes standard output."""

CLOSED_OUTPUT = 128 + signal.SIGPIPE


def main() -> None:
    """Run the command and exit with its code."""
    try:
        try:
            _run_command()
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # Typer and rich replace a BrokenPipeError with SystemExit(1).
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail again
        sys.exit(CLOSED_OUTPUT)


def _run_command() -> None:
    try:
        sys.exit(make_app(sys.argv[1] if len(sys.argv) > 1 else "")(prog_name="drw", standalone_mode=False))
    except DrwError as error:
        _fail(error.message, next((EXIT_CODES[c] for c in type(error).__mro__ if c in EXIT_CODES), 1))
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group without a command shows its help
            warn(message)
            sys.exit(error.exit_code)
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        _fail(f"{message[:1].lower()}{message[1:].rstrip('.')}{hint}", error.exit_code)
    except typer.Abort:
        _fail("stopped: nothing was done", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        raise
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except Exception as error:  # a user gets one line, and not a traceback, for a bug too
        if os.environ.get("DRW_TRACEBACK"):
            raise
        _fail(f"unexpected error, {type(error).__name__}: {error}; set DRW_TRACEBACK=1 for a traceback", 1)


def _fail(message: str, code: int) -> None:
    warn(f"drw: {' '.join(message.split())}")
    sys.exit(code)


if __name__ == "__main__":
    main()
