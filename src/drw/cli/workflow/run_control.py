"""`drw runs`: pause, resume, fork, retry, signal and query runs."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

commands = typer.Typer()
"""Commands of `drw runs`."""

Run = Annotated[str, typer.Argument(help="Run id, from `drw runs list`.", show_default=False)]
FromStep = Annotated[
    str, typer.Option("--from", help="Run again from this node on; keep the outputs of the others.", show_default=False)
]
RequestId = Annotated[
    str, typer.Option("--id", help="Idempotency key: the same one is the same run.", show_default=False)
]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", help="NAME=VALUE: replace an input; VALUE is JSON or a text.")
]


@commands.command()
def pause(
    run: Run,
    reason: Annotated[str, typer.Option(help="Reason, for the audit log.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start no further steps of a run and of its child runs; steps in progress end."""
    _write_state(Api.of(data_dir).post(f"/api/v1/runs/{run}:pause", {"reason": reason}), as_json)


@commands.command()
def resume(run: Run, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Continue a paused run."""
    _write_state(Api.of(data_dir).post(f"/api/v1/runs/{run}:resume"), as_json)


@commands.command()
def fork(
    run: Run,
    inputs: Inputs = None,
    from_step: FromStep = "",
    version: Annotated[
        str, typer.Option(help="Template version: `latest` or its SHA-256. Default: that of the run.")
    ] = "",
    request_id: RequestId = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start a new run from one that has ended, with changed inputs or from a later node."""
    body = {
        "request_id": request_id or str(uuid.uuid4()),
        "inputs": values(inputs or []),
        "from_step": from_step,
        "template_version": version,
    }
    _write_new(Api.of(data_dir).post(f"/api/v1/runs/{run}:fork", body), as_json)


@commands.command()
def retry(
    run: Run, from_step: FromStep = "", request_id: RequestId = "", data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Start a new run from a failed or cancelled one. Default: from the steps that did not succeed."""
    body = {"request_id": request_id or str(uuid.uuid4()), "from_step": from_step}
    _write_new(Api.of(data_dir).post(f"/api/v1/runs/{run}:retry", body), as_json)


@commands.command()
def signal(
    run: Run,
    name: Annotated[str, typer.Argument(help="Name of the signal, from the template.", show_default=False)],
    payload: Annotated[str, typer.Option("--payload", "-p", help="JSON or a text. Default: null.")] = "null",
    signal_id: Annotated[
        str, typer.Option("--id", help="Idempotency key: the same one is the same signal.", show_default=False)
    ] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Send a signal to a run, also before a step waits for it."""
    body = {"signal_id": signal_id or str(uuid.uuid4()), "payload": _value(payload)}
    response = Api.of(data_dir).post(f"/api/v1/runs/{run}/signals/{name}", body)
    if as_json:
        write_json(response)
    else:
        write(f"{name} {response['signal_id']} is stored for {run}")


@commands.command()
def query(run: Run, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the state of a run now: its nodes, their outputs so far, and what it waits for."""
    response = Api.of(data_dir).get(f"/api/v1/runs/{run}:query")
    if as_json:
        write_json(response)
        return
    write(f"{run}  {response['state'].lower()}\n")
    rows = [
        (node["node"], ", ".join(f"{count} {state.lower()}" for state, count in sorted(node["steps"].items())))
        for node in response["nodes"]
    ]
    write_table(("NODE", "STEPS"), rows)
    for wait in response["waiting_for"]:
        name = f" {wait['name']}" if wait["name"] else ""
        deadline = f" until {format_time(wait['deadline'])}" if wait.get("deadline") else ""
        write(f"\n{wait['step']} waits for {wait['kind']}{name}{deadline}")
    for pending in response["pending_signals"]:
        write(f"\nthe signal {pending['name']} {pending['signal_id']} is pending")
    write(f"\n{json.dumps(response['values'], indent=2, ensure_ascii=False)}")
    if response["omitted"]:
        write(f"\ntoo large to show: {', '.join(response['omitted'])}; see `drw runs show {run}`")


@commands.command()
def payload(
    run: Run,
    sha256: Annotated[str, typer.Argument(help="SHA-256 of the value, from `drw runs show`.", show_default=False)],
    file: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file.", dir_okay=False)] = None,
    data_dir: DataDir = None,
) -> None:
    """Print a value of a run that is larger than 64 KiB, as JSON."""
    value = Api.of(data_dir).get(f"/api/v1/runs/{run}/payloads/{sha256}")["value"]
    if file is None:
        write_json(value)
        return
    try:
        file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be written: {error.strerror}") from error


def payload_lines(run: dict[str, Any]) -> list[str]:
    """Return a line for each large value of a run."""
    references = {"inputs": run.get("inputs_payload"), "output": run.get("output_payload")}
    references |= {f"output of {step['id']}": step.get("output_payload") for step in run.get("steps", [])}
    return [f"{name}: {r['bytes']} bytes, payload {r['sha256']}" for name, r in references.items() if r]


def lineage_lines(run: dict[str, Any]) -> list[str]:
    """Return the lines that show from which run a run comes, and which come from it."""
    lines = []
    if origin := run.get("forked_from") or run.get("restart_of"):
        lines.append(f"from {origin}" + (f", from {run['from_step']} on" if run.get("from_step") else ""))
    return lines + [f"continued by {fork}" for fork in run.get("forks", [])]


def values(texts: list[str]) -> dict[str, Any]:
    """Return inputs from NAME=VALUE."""
    result: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidRequest(f"{text!r} is not NAME=VALUE")
        result[name] = _value(value)
    return result


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _write_state(run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(run)
    else:
        write(f"{run['id']} is {run['state'].lower()}")


def _write_new(run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(run)
    else:
        write(f"{run['id']}\n\nFollow it with `drw runs watch {run['id']}`.")
