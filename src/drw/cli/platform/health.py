"""`drw slo` and `drw status --history`: error budgets, and the history of the states of services and models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write_json, write_table
from drw.kernel.errors import NotFound

HISTORY_ROWS = 100


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    app.command(rich_help_panel=panel)(slo)


def slo(
    service: Annotated[str, typer.Argument(help="Only this service.", show_default=False)] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show service level objectives: the error budget left, burn rates and the alert that fires."""
    slos = Api.of(data_dir).get("/api/v1/health/slos")["slos"]
    selected = [slo for slo in slos if service in ("", slo["service"])]
    if not selected:
        raise NotFound(f"there is no service {service!r}; `drw slo` shows all")
    if as_json:
        write_json(selected)
        return
    windows = [rate["window"] for rate in selected[0]["burn_rates"]]
    rows = [
        (
            slo["service"],
            _objective(slo),
            f"{slo['budget_left']:.1%}",
            *(f"{rate['rate']:g}" for rate in slo["burn_rates"]),
            "" if slo["alert"] == "NONE" else f"{slo['alert'].lower()}: {slo['rule']}",
        )
        for slo in selected
    ]
    write_table(("SERVICE", "OBJECTIVE", "BUDGET LEFT", *(f"BURN {window}" for window in windows), "ALERT"), rows)


def show_history(service: str, data_dir: Path | None, as_json: bool) -> None:
    """Print the newest changes of state of one service or model, or of all."""
    transitions = Api.of(data_dir).pages(
        "/api/v1/health/history", "transitions", HISTORY_ROWS, service=service or None, page_size=HISTORY_ROWS
    )
    if as_json:
        write_json(transitions)
        return
    rows = [
        (format_time(t["at"]), t["service"], _state(t["from"]), _state(t["to"]), t["more"] or "", t["detail"])
        for t in transitions
    ]
    write_table(("AT (UTC)", "SERVICE", "FROM", "TO", "MORE", ""), rows, "no changes of state")


def model_rows(models: Iterable[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Return the rows of the table of models in `drw status`."""
    return [
        (
            model["model"],
            model["replica"],
            model["circuit"],
            model["probe"],
            f"{model['latency_ms']:.0f} ms" if model["latency_ms"] else "",
            format_time(model.get("probed_at")),
            model["error"],
        )
        for model in models
    ]


def _objective(slo: dict[str, Any]) -> str:
    limit = f" within {slo['latency_ms']} ms" if slo["latency_ms"] else " available"
    return f"{100 * slo['target']:.5g} %{limit}"


def _state(name: str) -> str:
    return "" if name == "STATE_UNSPECIFIED" else name.lower()
