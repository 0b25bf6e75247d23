"""`drw events`: follow the events of the event bus."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_line
from drw.kernel.errors import Unavailable

RECONNECTS = 5
"""Consecutive streams without an event after which the command gives up."""

events = typer.Typer(help="Follow events of models, documents, runs, kills and budgets.", no_args_is_help=True)


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(events, name="events", rich_help_panel=panel)


@events.callback()
def group() -> None:
    """Keep `tail` a command of the group."""


@events.command("tail")
def tail(
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", help="Only this type, as in run.ended; can be repeated.", show_default=False),
    ] = None,
    after: Annotated[
        str,
        typer.Option(help="Start after the event with this number; 0: with the oldest event.", show_default=False),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Stop after so many events; 0: never.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print new events as they happen, until Ctrl-C."""
    api = Api.of(data_dir)
    query = "&".join(f"types={_full_type(name)}" for name in types or [])
    count = failures = 0
    while True:
        position = f"&last_event_id={after}" if after else ""
        try:
            for event in api.events("GET", f"/api/v1/events:tail?{query}{position}"):
                after, failures = event["event_id"], 0
                if not event["type"]:
                    continue  # keep-alive
                write_line(event) if as_json else write(_line(event))
                count += 1
                if count == limit:
                    return
        except Unavailable:
            failures += 1
            if not after or failures == RECONNECTS:
                raise


def _full_type(name: str) -> str:
    return name if name.startswith("com.") else f"com.drw.ai.{name}.v1"


def _line(event: dict[str, object]) -> str:
    name = str(event["type"]).removeprefix("com.drw.ai.").removesuffix(".v1")
    data = json.dumps(event["data"], ensure_ascii=False)
    return f"{event['event_id']:>6}  {format_time(str(event['time']))}  {name:<20} {event['subject']}  {data}"
