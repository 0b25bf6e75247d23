"""`drw workflows`, `drw runs`: list templates, start, list, watch and cancel runs."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_line, write_table
from drw.cli.rag.documents import files_of
from drw.cli.terminal import console
from drw.cli.workflow import approvals, run_control
from drw.kernel.errors import InvalidRequest

workflows = typer.Typer(help="List workflow templates and start runs.", no_args_is_help=True)
runs = typer.Typer(help="List, watch, control and approve runs.", no_args_is_help=True)
runs.add_typer(run_control.commands)

Run = Annotated[str, typer.Argument(help="Run id, from `drw runs list`.", show_default=False)]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(workflows, name="workflows", rich_help_panel=panel)
    approvals.add_commands(runs)
    app.add_typer(runs, name="runs", rich_help_panel=panel)


@workflows.command("list")
def list_templates(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the templates."""
    templates = Api.of(data_dir).get("/api/v1/templates")["templates"]
    if as_json:
        write_json(templates)
        return
    rows = [
        (t["name"], t["version"][:12], ", ".join(i["name"] for i in t["inputs"]), t["description"]) for t in templates
    ]
    write_table(("TEMPLATE", "VERSION", "INPUTS", ""), rows, "no templates")


@workflows.command("show")
def show_template(
    name: Annotated[str, typer.Argument(help="Template name.")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show a template as it was written."""
    response = Api.of(data_dir).get(f"/api/v1/templates/{name}")
    if as_json:
        write_json(response)
    else:
        write(response["source"])


@workflows.command("run")
def run_template(
    name: Annotated[str, typer.Argument(help="Template name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=VALUE; for a file input, the path of a file or folder."),
    ] = None,
    priority: Annotated[str, typer.Option(help="Of the desk's queued runs: low, normal or high.")] = "normal",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the run until it ends.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start a run."""
    api = Api.of(data_dir)
    template = api.get(f"/api/v1/templates/{name}")
    values = parse_inputs(api, template, inputs or [])
    body = {"template": name, "inputs": values, "request_id": str(uuid.uuid4()), "priority": priority.upper()}
    run = api.post("/api/v1/runs", body)
    if watch:
        _watch(api, run["id"], as_json)
    elif as_json:
        write_json(run)
    else:
        write(f"{run['id']}\n\nFollow it with `drw runs watch {run['id']}`.")


@runs.command("list")
def list_runs(
    template: Annotated[str, typer.Option(help="Only runs of this template.", show_default=False)] = "",
    state: Annotated[
        str,
        typer.Option(
            help="Only this state: queued, running, paused, succeeded, failed, cancelled.", show_default=False
        ),
    ] = "",
    after: Annotated[str, typer.Option(help="Only runs started after this time, as in 2026-11-30T08:00:00Z.")] = "",
    before: Annotated[str, typer.Option(help="Only runs started before this time.")] = "",
    input_text: Annotated[
        str, typer.Option("--input", help="Only runs with this text in an input.", show_default=False)
    ] = "",
    error: Annotated[str, typer.Option(help="Only errors that contain this text.", show_default=False)] = "",
    desk: Annotated[str, typer.Option(help="Another desk of your org; needs org:admin.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the desk's runs, newest first."""
    filters = {
        "template": template,
        "state": state.upper(),
        "created_after": after,
        "created_before": before,
        "input": input_text,
        "error": error,
        "desk": desk,
    }
    query = {name: value for name, value in filters.items() if value}
    records = Api.of(data_dir).pages("/api/v1/runs", "runs", limit=limit, **query)
    if as_json:
        write_json(records)
        return
    rows = [
        (r["id"], r["template"], r["state"].lower(), format_time(r.get("created_at")), r.get("error", ""))
        for r in records
    ]
    write_table(("RUN", "TEMPLATE", "STATE", "STARTED", ""), rows, "no runs: start one with `drw workflows run`")


@runs.command("show")
def show_run(run: Run, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a run with its steps and its output."""
    response = Api.of(data_dir).get(f"/api/v1/runs/{run}")
    if as_json:
        write_json(response)
        return
    write(f"{response['id']}  {response['template']}  {response['state'].lower()}  {response.get('error', '')}")
    for line in run_control.lineage_lines(response):
        write(line)
    if response["undo_reason"] and not response.get("ended_at"):
        write(f"undoes its steps: {response['undo_reason']}")
    rows = [
        (s["id"], s["state"].lower(), s["attempts"], format_time(s.get("ended_at")), s["error"])
        for s in response["steps"]
    ]
    write_table(("STEP", "STATE", "ATTEMPTS", "ENDED", ""), rows)
    for line in run_control.payload_lines(response):
        write(line)
    _show_output(response.get("output"))


@runs.command("watch")
def watch_run(run: Run, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Follow a run until it ends."""
    _watch(Api.of(data_dir), run, as_json)


@runs.command("cancel")
def cancel_run(run: Run, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Cancel a run. Steps that have ended stay as they are, or are undone if their nodes have compensations."""
    response = Api.of(data_dir).post(f"/api/v1/runs/{run}:cancel")
    if as_json:
        write_json(response)
    else:
        undoes = bool(response["undo_reason"]) and not response.get("ended_at")
        write(f"{run} undoes its steps" if undoes else f"{run} is {response['state'].lower()}")


@runs.command("replay")
def replay_runs(
    runs_: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids. Default: the newest.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of the newest runs.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check recorded runs against the present code, without any effect; exit with 1 if one diverges."""
    api = Api.of(data_dir)
    ids = runs_ or [run["id"] for run in api.pages("/api/v1/runs", "runs", limit=limit)]
    results = [api.get(f"/api/v1/runs/{run}:replay") for run in ids]
    if as_json:
        write_json(results)
    else:
        rows = [(r["run"], r["template"], r["steps"], r["divergence"] or "ok") for r in results]
        write_table(("RUN", "TEMPLATE", "STEPS", ""), rows, "no runs")
    if any(result["divergence"] for result in results):
        raise typer.Exit(1)


def _watch(api: Api, run: str, as_json: bool) -> None:
    for event in api.events("GET", f"/api/v1/runs/{run}:watch"):
        if not event["event_id"]:
            continue  # keep-alive
        if as_json:
            write_line(event)
        else:
            at, step = format_time(event.get("at")), event["step"] or "run"
            write(f"{at}  {step:<20} {event['state']:<10} {event['detail']}".rstrip())
    response = api.get(f"/api/v1/runs/{run}")
    if not as_json:
        for line in run_control.payload_lines(response | {"steps": []}):
            write(line)
        _show_output(response.get("output"))
    if response["state"] != "SUCCEEDED":
        raise typer.Exit(1)


def _show_output(output: Any) -> None:
    if isinstance(output, dict):
        console().print()
        for name, value in output.items():
            text = _text(value)
            write(f"{name}: {text}" if "\n" not in text else f"{name}:\n{text}")
    elif output is not None:
        write(f"\n{_text(output)}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def parse_inputs(api: Api, template: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Return the inputs of a run from NAME=VALUE; uploads files."""
    declared = {i["name"]: i for i in template["inputs"]}
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in declared:
            raise InvalidRequest(f"{text!r} is not NAME=VALUE with one of the inputs: {', '.join(declared)}")
        values[name] = _parse_input(api, declared[name]["type"], value)
    if missing := [n for n, i in declared.items() if i["required"] and n not in values]:
        raise InvalidRequest(f"the template needs --input {missing[0]}=...")
    return values


def _parse_input(api: Api, input_type: str, text: str) -> Any:
    if input_type == "INTEGER":
        try:
            return int(text)
        except ValueError:
            raise InvalidRequest(f"{text!r} is not a whole number") from None
    if input_type == "FILES":
        return [api.upload("/v1/files", file, purpose="assistants")["id"] for file in files_of(Path(text))]
    if input_type in ("NUMBER", "BOOLEAN", "LIST", "OBJECT"):
        try:
            return json.loads(text)
        except ValueError:
            raise InvalidRequest(f"{text!r} is not JSON, as an input of the type {input_type} needs") from None
    return text
