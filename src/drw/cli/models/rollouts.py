"""`drw rollouts`: replace the models of an alias by a candidate in steps, with automatic rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.models.experiments import write_comparisons
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

rollouts = typer.Typer(help="Rollouts: replace the models of an alias by a candidate in steps.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Rollout, from `drw rollouts list`.", show_default=False)]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(rollouts, name="rollouts", rich_help_panel=panel)


@rollouts.command("create")
def create_rollout(
    name: Annotated[str, typer.Argument(help="Name of the rollout.", show_default=False)],
    alias: Annotated[str, typer.Option(help="Alias whose models are replaced.", show_default=False)],
    model: Annotated[str, typer.Option(help="Id of the candidate.", show_default=False)],
    unit: Annotated[str, typer.Option(help="What is assigned: user, key, session, document or request.")] = "user",
    step: Annotated[
        list[int] | None,
        typer.Option(help="Percent of the units that get the candidate; repeatable. Default: 1, 5, 10, 25, 50."),
    ] = None,
    step_seconds: Annotated[int, typer.Option(help="Least seconds of a step.")] = 600,
    step_units: Annotated[int, typer.Option(help="Fewest new units of each group in a step.")] = 100,
    shadow: Annotated[int, typer.Option(help="Percent of the calls that the shadow phase copies; 0: no phase.")] = 10,
    guardrails: Annotated[
        Path | None,
        typer.Option(
            help="Metrics with max_harm as a YAML or JSON list. Default: share of errors and p99 of the time.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="Description.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a draft. Another person approves it with `drw rollouts approve`."""
    definition: dict[str, Any] = {
        "name": name,
        "alias": alias,
        "model": model,
        "unit": unit,
        "step_seconds": step_seconds,
        "step_units": step_units,
        "shadow_percent": shadow,
        "description": description,
    }
    if step:
        definition["steps"] = step
    if guardrails:
        definition["guardrails"] = _metrics(guardrails)
    response = Api.of(data_dir).post("/api/v1/rollouts", definition)
    _show_change(response, as_json, f"{name} is a draft; another person approves it with `drw rollouts approve {name}`")


@rollouts.command("approve")
def approve_rollout(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Approve a draft of another person."""
    response = Api.of(data_dir).post(f"/api/v1/rollouts/{name}:approve")
    _show_change(response, as_json, f"{name} is approved; start it with `drw rollouts start {name}`")


@rollouts.command("start")
def start_rollout(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start an approved rollout. It advances by itself from then on."""
    _show_change(Api.of(data_dir).post(f"/api/v1/rollouts/{name}:start"), as_json)


@rollouts.command("pause")
def pause_rollout(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Hold a rollout at its step. Guardrails stay active."""
    _show_change(Api.of(data_dir).post(f"/api/v1/rollouts/{name}:pause"), as_json)


@rollouts.command("resume")
def resume_rollout(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Let a paused rollout advance by itself again."""
    _show_change(Api.of(data_dir).post(f"/api/v1/rollouts/{name}:resume"), as_json)


@rollouts.command("advance")
def advance_rollout(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Go to the next step without waiting for time and units. Guardrails must hold."""
    api = Api.of(data_dir)
    percent = api.get(f"/api/v1/rollouts/{name}")["percent"]
    _show_change(api.post(f"/api/v1/rollouts/{name}:advance", {"from_percent": percent}), as_json)


@rollouts.command("rollback")
def roll_back(
    name: Name,
    reason: Annotated[str, typer.Option(help="Reason, for the audit log.", show_default=False)],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a rollout: the alias keeps its models."""
    _show_change(Api.of(data_dir).post(f"/api/v1/rollouts/{name}:rollback", {"reason": reason}), as_json)


@rollouts.command("list")
def list_rollouts(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List all rollouts."""
    records = Api.of(data_dir).pages("/api/v1/rollouts", "rollouts", limit=limit)
    if as_json:
        write_json(records)
        return
    rows = [
        (
            record["name"],
            _state(record),
            record["alias"],
            record["model"],
            format_time(record.get("step_at")),
            record["reason"] or record["description"],
        )
        for record in records
    ]
    write_table(("ROLLOUT", "STATE", "ALIAS", "CANDIDATE", "SINCE", ""), rows, "no rollouts")


@rollouts.command("show")
def show_rollout(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Compare the candidate with its control group, and show the history."""
    report = Api.of(data_dir).get(f"/api/v1/rollouts/{name}/report")
    if as_json:
        write_json(report)
        return
    rollout, shadow, delivery = report["rollout"], report.get("shadow", {}), report.get("delivery", {})
    write(f"{name}  {_state(rollout)}  {rollout['reason']}".rstrip())
    write(f"{rollout['alias']} -> {rollout['model']}, steps {', '.join(map(str, rollout['steps']))} %")
    if report["waits_for"]:
        write(f"waits for: {report['waits_for']}")
    if shadow.get("compared") or shadow.get("failed"):
        write(
            f"shadow calls: {shadow['compared']} compared, {shadow['failed']} failed, {shadow['dropped']} dropped; "
            f"same text {shadow['same_text']}, length x{shadow['length_ratio']:.2f}, "
            f"{shadow['mean_ms']:.0f} ms beside {shadow['primary_mean_ms']:.0f} ms"
        )
    if delivery:
        write(
            f"exposures: {delivery['recorded']} recorded, {delivery['lost']} lost, "
            f"{delivery['not_assigned']} calls without a {rollout['unit']}"
        )
    write_comparisons(report)
    write("")
    rows = [
        (format_time(change["at"]), change["action"], f"{change['percent']} %", change["actor"], change["reason"])
        for change in report["history"]
    ]
    write_table(("AT", "CHANGE", "PERCENT", "BY", "REASON"), rows, "no history")


def _state(rollout: dict[str, Any]) -> str:
    state = str(rollout["state"].lower().replace("_", " "))
    if rollout["state"] == "RAMP":
        state += f" {rollout['percent']} %"
    return f"{state}, paused" if rollout["paused"] else state


def _show_change(response: dict[str, Any], as_json: bool, text: str = "") -> None:
    if as_json:
        write_json(response)
    else:
        write(text or f"{response['name']} is {_state(response)}")


def _metrics(file: Path) -> list[Any]:
    import yaml

    try:
        metrics = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} is not YAML: {error}") from error
    if not isinstance(metrics, list):
        raise InvalidRequest(f"{file} must contain a list of metrics")
    return metrics
