"""`drw dead-letters`: list, redrive and discard failed runs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

app = typer.Typer(help="List, redrive and discard failed runs.", no_args_is_help=True)

PATH = "/api/v1/deadLetters"
POLL_SECONDS = 1.0
CLASSES = ("transient", "permanent", "policy", "budget", "ambiguous")
COUNTS = ("waiting", "started", "failed", "put_back")
STATES = ("open", "redriving", "redriven", "discarded")

Letters = Annotated[
    list[str] | None, typer.Argument(help="Dead letter ids, from `drw dead-letters list`.", show_default=False)
]
Group = Annotated[str, typer.Option(help="Only this group, from `drw dead-letters groups`.", show_default=False)]
Template = Annotated[str, typer.Option(help="Only runs of this template.", show_default=False)]
Step = Annotated[str, typer.Option(help="Only this failed step or node.", show_default=False)]
FailureClass = Annotated[
    str, typer.Option("--class", help=f"Only this class of failure: {', '.join(CLASSES)}.", show_default=False)
]
Error = Annotated[str, typer.Option(help="Only errors that contain this text.", show_default=False)]
After = Annotated[str, typer.Option(help="Only failures after this time, as in 2026-11-30T08:00:00Z.")]
Before = Annotated[str, typer.Option(help="Only failures before this time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]
Redrive = Annotated[str, typer.Argument(help="Redrive id.", show_default=False)]


def add_to(parent: typer.Typer, panel: str) -> None:
    """Add the commands."""
    parent.add_typer(app, name="dead-letters", rich_help_panel=panel)


@app.command("list")
def list_letters(
    group: Group = "",
    template: Template = "",
    step: Step = "",
    failure_class: FailureClass = "",
    error: Error = "",
    after: After = "",
    before: Before = "",
    state: Annotated[str, typer.Option(help=f"Only this state: {', '.join(STATES)}; all: every state.")] = "open",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the desk's dead letters, newest first."""
    query = _filter([], group, template, step, failure_class, error, after, before)
    if state != "all":
        query["state"] = _one_of(state, STATES, "--state")
    records = Api.of(data_dir).pages(PATH, "dead_letters", limit=limit, **query)
    if as_json:
        write_json(records)
        return
    rows = [
        (r["id"], r["group"], _failed(r), r["failure_class"].lower(), format_time(r.get("failed_at")), r["error"])
        for r in records
    ]
    write_table(("DEAD LETTER", "GROUP", "STEP", "CLASS", "FAILED", ""), rows, "no dead letters")


@app.command("groups")
def list_groups(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the groups of open dead letters with the same cause, the largest first."""
    groups = Api.of(data_dir).get("/api/v1/deadLetterGroups")["groups"]
    if as_json:
        write_json(groups)
        return
    rows = [
        (
            *(g["group"], g["dead_letters"], f"{g['template']}/{g['node']}", g["failure_class"].lower()),
            *(format_time(g.get("last_failed_at")), g["error"]),
        )
        for g in groups
    ]
    write_table(("GROUP", "NUMBER", "NODE", "CLASS", "LAST", ""), rows, "no open dead letters")


@app.command("show")
def show_letter(
    letter: Annotated[str, typer.Argument(help="Dead letter id.")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show a dead letter with the inputs of its run."""
    response = Api.of(data_dir).get(f"{PATH}/{letter}")
    if as_json:
        write_json(response)
        return
    write(f"{response['id']}  {response['state'].lower()}  {_failed(response)}  {format_time(response['failed_at'])}")
    write(f"{response['failure_class'].lower()}: {response['error']}")
    names = ("run", "group", "reason", "attempts", "template_version", "restart_of", "redriven_run", "redrive_error")
    write_table(("FIELD", "VALUE"), [(name, response[name]) for name in names if response[name]])
    write(f"\ninputs: {json.dumps(response.get('inputs'), indent=2, ensure_ascii=False)}")


@app.command("redrive")
def redrive(
    letters: Letters = None,
    group: Group = "",
    template: Template = "",
    step: Step = "",
    failure_class: FailureClass = "",
    error: Error = "",
    after: After = "",
    before: Before = "",
    dry_run: DryRun = False,
    rate: Annotated[int, typer.Option(min=1, max=6000, help="New runs per minute.")] = 60,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=VALUE: replace an input; VALUE is JSON or a text."),
    ] = None,
    version: Annotated[
        str, typer.Option(help="Template version: `latest` or its SHA-256. Default: that of the run.")
    ] = "",
    from_step: Annotated[
        str, typer.Option("--from", help="Run again from this node on; keep the outputs of the others.")
    ] = "",
    request_id: Annotated[
        str, typer.Option("--id", help="Idempotency key: the same one is the same redrive.", show_default=False)
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end of the redrive.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start new runs for open dead letters. The first run of each group is a probe."""
    api = Api.of(data_dir)
    body = {
        "filter": _filter(letters or [], group, template, step, failure_class, error, after, before),
        "request_id": request_id or str(uuid.uuid4()),
        "dry_run": dry_run,
        "runs_per_minute": rate,
        "inputs": _inputs(inputs or []),
        "template_version": version,
        "from_step": from_step,
    }
    response = api.post("/api/v1/redrives", body)
    while wait and response["state"] == "ACTIVE":
        time.sleep(POLL_SECONDS)
        response = api.get(f"/api/v1/redrives/{response['id']}")
    _show_redrive(response, as_json)
    if wait and any(g["state"] == "REFUSED" for g in response["groups"]):
        raise typer.Exit(1)


@app.command("progress")
def progress(redrive: Redrive, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the progress of a redrive."""
    _show_redrive(Api.of(data_dir).get(f"/api/v1/redrives/{redrive}"), as_json)


@app.command("stop")
def stop(redrive: Redrive, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Stop a redrive; runs that it has started continue."""
    _show_redrive(Api.of(data_dir).post(f"/api/v1/redrives/{redrive}:cancel"), as_json)


@app.command("discard")
def discard(
    reason: Annotated[str, typer.Option(help="Reason, for the audit log.")],
    letters: Letters = None,
    group: Group = "",
    template: Template = "",
    step: Step = "",
    failure_class: FailureClass = "",
    error: Error = "",
    after: After = "",
    before: Before = "",
    dry_run: DryRun = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Close open dead letters without a redrive."""
    chosen = _filter(letters or [], group, template, step, failure_class, error, after, before)
    body = {"filter": chosen, "reason": reason, "dry_run": dry_run}
    response = Api.of(data_dir).post(f"{PATH}:discard", body)
    if as_json:
        write_json(response)
    else:
        write(f"{response['dead_letters']} dead letters {'would be ' if dry_run else ''}discarded")


def _filter(
    letters: list[str],
    group: str,
    template: str,
    step: str,
    failure_class: str,
    error: str,
    after: str,
    before: str,
) -> dict[str, Any]:
    fields = {
        "ids": letters,
        "group": group,
        "template": template,
        "step": step,
        "failure_class": _one_of(failure_class, CLASSES, "--class") if failure_class else "",
        "error": error,
        "failed_after": after,
        "failed_before": before,
    }
    return {name: value for name, value in fields.items() if value}


def _one_of(text: str, names: Iterable[str], option: str) -> str:
    if text.lower() not in names:
        raise InvalidRequest(f"{option} is {text!r}; it can be: {', '.join(names)}")
    return text.upper()


def _inputs(texts: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidRequest(f"{text!r} is not NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def _failed(letter: dict[str, Any]) -> str:
    return f"{letter['template']}/{letter['step']}".rstrip("/")


def _show_redrive(response: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(response)
        return
    if response["state"] == "DRY_RUN":
        write(f"{response['dead_letters']} dead letters would be redriven")
    else:
        counts = ", ".join(f"{response[name]} {name.replace('_', ' ')}" for name in COUNTS if response[name])
        write(
            f"{response['id']}  {response['state'].lower()}  {response['dead_letters']} dead letters: {counts or '-'}"
        )
    rows = [
        (
            g["group"],
            g["dead_letters"],
            "" if g["state"].startswith("STATE_") else g["state"].lower(),
            g["probe_run"],
            g["error"],
        )
        for g in response["groups"]
    ]
    write_table(("GROUP", "NUMBER", "STATE", "PROBE", ""), rows, "no open dead letters match")
