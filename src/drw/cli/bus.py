"""`drw events`: follow the events of the event bus, list parked ones, and redrive them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_line, write_table
from drw.kernel.errors import InvalidRequest, Unavailable

RECONNECTS = 5
"""Consecutive streams without an event after which the command gives up."""

events = typer.Typer(
    help="Follow events of models, documents, runs, kills and budgets; redrive parked ones.", no_args_is_help=True
)


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(events, name="events", rich_help_panel=panel)


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


@events.command("parked")
def parked(
    consumer: Annotated[str, typer.Option(help="Only of this service.", show_default=False)] = "",
    type_: Annotated[
        str, typer.Option("--type", "-t", help="Only this type, as in run.ended.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List events that a consumer could not apply, newest first."""
    query = {name: value for name, value in {"consumer": consumer, "type": _full_type(type_)}.items() if value}
    records = Api.of(data_dir).pages("/api/v1/events/parked", "events", limit=limit, **query)
    if as_json:
        write_json(records)
        return
    rows = [
        (e["id"], e["consumer"], _short_type(e["type"]), e["subject"], format_time(e["parked_at"]), _state(e))
        for e in records
    ]
    write_table(("PARKED", "CONSUMER", "TYPE", "EVENT OF", "SINCE (UTC)", ""), rows, "no parked events")


@events.command("redrive")
def redrive(
    parked: Annotated[
        list[str] | None, typer.Argument(help="Ids, from `drw events parked`.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All parked events, at most 1,000.")] = False,
    consumer: Annotated[str, typer.Option(help="With --all: only of this service.", show_default=False)] = "",
    type_: Annotated[
        str, typer.Option("--type", "-t", help="With --all: only this type, as in run.ended.", show_default=False)
    ] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let consumers apply parked events again, after the cause is fixed."""
    if bool(parked) == every:
        raise InvalidRequest("give either ids or --all")
    body = {"parked": parked or [], "all": every, "consumer": consumer, "type": _full_type(type_)}
    response = Api.of(data_dir).post("/api/v1/events/parked:redrive", body)
    if as_json:
        write_json(response)
    else:
        write(f"{response['events']} events are applied again; `drw events parked` shows those that fail again")


def _full_type(name: str) -> str:
    return name if not name or name.startswith("com.") else f"com.drw.ai.{name}.v1"


def _line(event: dict[str, object]) -> str:
    name = _short_type(str(event["type"]))
    data = json.dumps(event["data"], ensure_ascii=False)
    return f"{event['event_id']:>6}  {format_time(str(event['time']))}  {name:<20} {event['subject']}  {data}"


def _short_type(name: str) -> str:
    return name.removeprefix("com.drw.ai.").removesuffix(".v1")


def _state(event: dict[str, Any]) -> str:
    return "redriving" if event["redriving"] else str(event["error"])
