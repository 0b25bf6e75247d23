"""`drw triggers`: create, list, show, pause, resume and delete triggers, which start workflows by events."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.cli.workflow.workflows import parse_inputs
from drw.kernel.errors import InvalidRequest

EXPRESSION = "${"

triggers = typer.Typer(help="Start workflows by events and uploads.", no_args_is_help=True)

Trigger = Annotated[str, typer.Argument(help="Id or name, from `drw triggers list`.", show_default=False)]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(triggers, name="triggers", rich_help_panel=panel)


@triggers.command("create")
def create_trigger(
    name: Annotated[str, typer.Argument(help="Name of the trigger, unique in the desk.")],
    template: Annotated[str, typer.Option("--template", "-t", help="Template name, from `drw workflows list`.")],
    event: Annotated[str, typer.Option("--on", help="Type of events, as in run.ended.", show_default=False)] = "",
    upload: Annotated[
        str,
        typer.Option("--upload", help="Collection, by name or id: each file once it is indexed.", show_default=False),
    ] = "",
    condition: Annotated[
        str,
        typer.Option("--filter", help="CEL expression, as in \"event.data.state == 'failed'\".", show_default=False),
    ] = "",
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=VALUE; ${event.data.FIELD} is a field of the event."),
    ] = None,
    per_minute: Annotated[
        int, typer.Option("--max-per-minute", min=0, help="Maximum runs in a minute; 0: the maximum of the platform.")
    ] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a trigger: each event that matches starts a run."""
    if bool(event) == bool(upload):
        raise InvalidRequest("give either --on or --upload")
    api = Api.of(data_dir)
    spec = {
        "event": event,
        "collection": api.get(f"/api/v1/collections/{upload}")["id"] if upload else "",
        "filter": condition,
        "template": template,
        "inputs": _inputs(api, template, inputs or []),
        "max_runs_per_minute": per_minute,
    }
    trigger = api.post("/api/v1/triggers", {"name": name, "spec": spec})
    if as_json:
        write_json(trigger)
    else:
        write(f"{trigger['id']}  {name}")


@triggers.command("list")
def list_triggers(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the desk's triggers."""
    records = Api.of(data_dir).pages("/api/v1/triggers", "triggers")
    if as_json:
        write_json(records)
        return
    rows = [(t["name"], t["spec"]["template"], _events(t["spec"]), t["state"].lower(), t["waiting"]) for t in records]
    write_table(("TRIGGER", "TEMPLATE", "EVENTS", "STATE", "WAITING"), rows, "no triggers")


@triggers.command("show")
def show_trigger(trigger: Trigger, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a trigger, and what became of the latest events."""
    response = Api.of(data_dir).get(f"/api/v1/triggers/{trigger}")
    if as_json:
        write_json(response)
        return
    write(f"{response['id']}  {response['name']}  {response['state'].lower()}  {response['detail']}".rstrip())
    spec = response["spec"]
    write(f"{spec['template']}  {_events(spec)}  {spec['filter']}".rstrip())
    write(f"created by {response['created_by']}, {response['waiting']} events wait\n")
    rows = [
        (format_time(f["at"]), f["subject"], f["outcome"].lower(), f["run"], f["detail"]) for f in response["firings"]
    ]
    write_table(("LATEST (UTC)", "EVENT OF", "OUTCOME", "RUN", ""), rows, "no events yet")


@triggers.command("pause")
def pause_trigger(trigger: Trigger, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start no further runs; events during the pause start none, open runs continue."""
    _write_state(Api.of(data_dir).post(f"/api/v1/triggers/{trigger}:pause"), as_json)


@triggers.command("resume")
def resume_trigger(trigger: Trigger, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start runs again."""
    _write_state(Api.of(data_dir).post(f"/api/v1/triggers/{trigger}:resume"), as_json)


@triggers.command("delete")
def delete_trigger(trigger: Trigger, data_dir: DataDir = None) -> None:
    """Delete a trigger and the events that wait; open runs continue."""
    Api.of(data_dir).delete(f"/api/v1/triggers/{trigger}")
    write(f"{trigger} is deleted")


def _inputs(api: Api, template: str, texts: list[str]) -> dict[str, Any]:
    """Return the inputs from NAME=VALUE. A value with an expression is JSON or a text; a single file becomes a list."""
    declared = api.get(f"/api/v1/templates/{template}")
    kinds = {i["name"]: i["type"] for i in declared["inputs"]}
    values: dict[str, Any] = {}
    for text in (t for t in texts if EXPRESSION in t):
        name, _, value = text.partition("=")
        values[name] = [value] if kinds.get(name) == "FILES" and not value.startswith("[") else _json_or_text(value)
    optional = [i if i["name"] not in values else i | {"required": False} for i in declared["inputs"]]
    return values | parse_inputs(api, declared | {"inputs": optional}, [t for t in texts if EXPRESSION not in t])


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value) if value[:1] in ("[", "{") else value
    except ValueError:
        raise InvalidRequest(f"{value!r} is not JSON") from None


def _events(spec: dict[str, Any]) -> str:
    return f"{spec['event']} in {spec['collection']}" if spec["collection"] else str(spec["event"])


def _write_state(trigger: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(trigger)
    else:
        write(f"{trigger['name']} is {trigger['state'].lower()}")
