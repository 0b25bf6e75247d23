"""`drw experiments`: define, start and stop A/B experiments, and compare their arms."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, Walls, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

experiments = typer.Typer(help="A/B experiments: assign units to arms and compare them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Experiment, from `drw experiments list`.", show_default=False)]
LIMITS = (("lower", -1), ("estimate", 1), ("upper", 1))
BATCH = 1000
"""Outcomes of one request."""
BAR_WIDTH = 41
"""Characters of a drawn interval; odd, so that no difference is in the middle."""


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(experiments, name="experiments", rich_help_panel=panel)


@experiments.command("create")
def create_experiment(
    file: Annotated[
        Path, typer.Argument(help="Definition as YAML or JSON.", exists=True, dir_okay=False, show_default=False)
    ],
    wall: Walls = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a draft. `drw experiments start` starts it."""
    import yaml

    try:
        definition = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} is not YAML: {error}") from error
    if not isinstance(definition, dict):
        raise InvalidRequest(f"{file} must contain a mapping with name, unit and arms")
    if wall:
        definition["walls"] = wall
    response = Api.of(data_dir).post("/api/v1/experiments", definition)
    if as_json:
        write_json(response)
    else:
        write(f"{response['name']} is a draft; start it with `drw experiments start {response['name']}`")


@experiments.command("list")
def list_experiments(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the desk's experiments."""
    records = Api.of(data_dir).pages("/api/v1/experiments", "experiments", limit=limit)
    if as_json:
        write_json(records)
        return
    rows = [
        (
            record["name"],
            record["state"].lower(),
            record["unit"],
            " ".join(f"{arm['name']}={arm['weight']}" for arm in record["arms"]),
            format_time(record.get("started_at")),
            record["stop_reason"] or record["description"],
        )
        for record in records
    ]
    write_table(("EXPERIMENT", "STATE", "UNIT", "ARMS", "STARTED", ""), rows, "no experiments")


@experiments.command("start")
def start_experiment(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start a draft. Its definition cannot be changed afterwards."""
    response = Api.of(data_dir).post(f"/api/v1/experiments/{name}:start")
    if as_json:
        write_json(response)
    else:
        write(f"{name} is {response['state'].lower()}")


@experiments.command("stop")
def stop_experiment(
    name: Name,
    reason: Annotated[str, typer.Option(help="Reason, for the audit log.", show_default=False)],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Stop an experiment: every unit gets the control arm. The results stay."""
    response = Api.of(data_dir).post(f"/api/v1/experiments/{name}:stop", {"reason": reason})
    if as_json:
        write_json(response)
    else:
        write(f"{name} is {response['state'].lower()}: {response['stop_reason']}")


@experiments.command("delete")
def delete_experiment(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Delete an experiment that is not running, with its data."""
    response = Api.of(data_dir).delete(f"/api/v1/experiments/{name}")
    if as_json:
        write_json(response)
    else:
        write(f"{name} is deleted")


@experiments.command("assign")
def assign_unit(
    name: Name,
    unit: Annotated[str, typer.Argument(help="Id of a unit, such as a user.", show_default=False)],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the arm of a unit without recording an exposure."""
    response = Api.of(data_dir).post(f"/api/v1/experiments/{name}:assign", {"unit": unit})
    if as_json:
        write_json(response)
    else:
        note = "" if response["in_experiment"] else "  (not in the experiment)"
        write(f"{response['arm']}  {json.dumps(response['value'], ensure_ascii=False)}{note}")


@experiments.command("record")
def record_outcomes(
    name: Name,
    file: Annotated[
        typer.FileText,
        typer.Argument(help="JSON Lines with unit, metric, value and optionally denominator and id; - reads stdin."),
    ],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Record outcomes of exposed units from a file."""
    api = Api.of(data_dir)
    totals = {"recorded": 0, "duplicates": 0, "not_exposed": 0}
    outcomes = _outcomes(file)
    while batch := list(islice(outcomes, BATCH)):
        response = api.post(f"/api/v1/experiments/{name}/outcomes", {"outcomes": batch})
        for key in totals:
            totals[key] += response[key]
    if as_json:
        write_json(totals)
    else:
        write(", ".join(f"{count} {key.replace('_', ' ')}" for key, count in totals.items()))


@experiments.command("show")
def show_experiment(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Compare the arms with the control arm. Looking often does not make the results less valid."""
    api = Api.of(data_dir)
    response = api.get(f"/api/v1/experiments/{name}/results")
    if as_json:
        write_json(response)
        return
    definition = api.get(f"/api/v1/experiments/{name}")
    write(f"{name}  {response['state'].lower()}  {definition['stop_reason']}".rstrip())
    weights = {arm["name"]: arm["weight"] for arm in definition["arms"]}
    write_table(
        ("ARM", "UNITS", "WEIGHT"), [(arm["arm"], arm["units"], weights[arm["arm"]]) for arm in response["arms"]]
    )
    if delivery := response.get("delivery"):
        write(
            f"calls: {delivery['recorded']} recorded, {delivery['lost']} lost, "
            f"{delivery['not_assigned']} without a {definition['unit']}"
        )
    write_comparisons(response)


@experiments.command("feedback")
def record_feedback(
    response_id: Annotated[
        str, typer.Argument(help="Id of an answer: chatcmpl-, resp_, msg_ or ask_...", show_default=False)
    ],
    metric: Annotated[str, typer.Argument(help="Metric of the experiment.", show_default=False)],
    value: Annotated[float, typer.Argument(help="Value, such as a grade.", show_default=False)],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Record a value for a call of an experiment of an alias."""
    body = {"response_id": response_id, "metric": metric, "value": value}
    response = Api.of(data_dir).post("/api/v1/feedback", body)
    if as_json:
        write_json(response)
    else:
        names = ", ".join(response["experiments"])
        write(f"{names} has a value of this call already" if response["duplicate"] else f"recorded in {names}")


def write_comparisons(results: dict[str, Any]) -> None:
    """Write the comparisons with their intervals, and a warning if they cannot be trusted."""
    if results.get("sample_ratio", {}).get("mismatch"):
        write("The counts do not fit the weights (sample-ratio mismatch): do not trust the comparisons.")
    write("")
    write_table(
        ("METRIC", "ARM", "CONTROL", "VALUE", "DIFFERENCE", "", "VERDICT"),
        [_row(comparison) for comparison in results["comparisons"]],
        "no metrics",
    )


def _row(comparison: dict[str, Any]) -> tuple[str, ...]:
    verdict = comparison["verdict"].lower().replace("_", " ")
    if comparison["guardrail_breached"]:
        verdict += ", guardrail breached"
    text = bar = ""
    if interval := comparison.get("lift") or comparison.get("difference"):
        percent = 100 if comparison.get("lift") else 1
        numbers = [interval.get(name, sign * math.inf) * percent for name, sign in LIMITS]
        unit = "%" if comparison.get("lift") else ""
        text = "{1:+.3g}{u} [{0:+.3g}{u}, {2:+.3g}{u}]".format(*numbers, u=unit)
        if all(map(math.isfinite, numbers)):
            bar = draw(*numbers)
    return (
        comparison["metric"],
        comparison["arm"],
        f"{comparison['control_value']:.4g}" if "control_value" in comparison else "",
        f"{comparison['value']:.4g}" if "value" in comparison else "",
        text,
        bar,
        f"{verdict}: {comparison['reason']}" if comparison["reason"] else verdict,
    )


def draw(lower: float, estimate: float, upper: float) -> str:
    """Return an interval as a line of characters, with `|` at no difference."""
    extent = max(abs(lower), abs(upper)) or 1.0
    middle = BAR_WIDTH // 2

    def column(value: float) -> int:
        return middle + round(value / extent * middle)

    cells = [" "] * BAR_WIDTH
    cells[column(lower) : column(upper) + 1] = "-" * (column(upper) - column(lower) + 1)
    cells[middle] = "|"
    cells[column(estimate)] = "o"
    return "".join(cells)


def _outcomes(file: typer.FileText) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            outcome = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidRequest(f"line {number} is not JSON: {error}") from error
        if not isinstance(outcome, dict):
            raise InvalidRequest(f"line {number} must be an object with unit, metric and value")
        yield outcome
