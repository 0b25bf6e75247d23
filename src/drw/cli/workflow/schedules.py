"""`drw schedules`: create, list, preview, pause, resume, back-fill and delete schedules of workflows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, warn, write, write_json, write_table
from drw.cli.workflow.workflows import parse_inputs
from drw.kernel.errors import InvalidRequest

schedules = typer.Typer(help="Start workflows at times of cron or of an exchange.", no_args_is_help=True)

Schedule = Annotated[str, typer.Argument(help="Id or name, from `drw schedules list`.", show_default=False)]
Cron = Annotated[str, typer.Option("--cron", help='Five fields, as in "30 7 * * MON-FRI".', show_default=False)]
Market = Annotated[
    str, typer.Option("--market", help='Event of an exchange, as in "XNYS close + 15 min".', show_default=False)
]
TimeZone = Annotated[
    str, typer.Option("--time-zone", help="IANA time zone. Default: UTC, or that of the exchange.", show_default=False)
]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(schedules, name="schedules", rich_help_panel=panel)


@schedules.command("create")
def create_schedule(
    name: Annotated[str, typer.Argument(help="Name of the schedule, unique in the desk.")],
    template: Annotated[str, typer.Option("--template", "-t", help="Template name, from `drw workflows list`.")],
    cron: Cron = "",
    market: Market = "",
    time_zone: TimeZone = "",
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            help="NAME=VALUE; for a file input, the path of a file or folder. ${tick.date} and ${tick.time} are"
            " the date and the time of the occurrence.",
        ),
    ] = None,
    overlap: Annotated[
        str, typer.Option(help="While a run is open: skip, queue-one, allow or cancel-running.")
    ] = "skip",
    jitter: Annotated[int, typer.Option(min=0, max=3600, help="Start up to this many seconds later.")] = 0,
    catch_up: Annotated[
        int, typer.Option(min=0, max=604800, help="How many seconds late an occurrence may start.")
    ] = 3600,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a schedule, and print its next ten occurrences first."""
    api = Api.of(data_dir)
    spec = _spec(template, cron, market, time_zone)
    if not as_json:
        _write_preview(api.post("/api/v1/schedules:preview", {"spec": spec}))
    values = parse_inputs(api, api.get(f"/api/v1/templates/{template}"), inputs or [])
    spec |= {
        "inputs": values,
        "overlap": overlap.upper().replace("-", "_"),
        "jitter_seconds": jitter,
        "catch_up_seconds": catch_up,
    }
    schedule = api.post("/api/v1/schedules", {"name": name, "spec": spec})
    if as_json:
        write_json(schedule)
    else:
        write(f"\n{schedule['id']}  {name}")


@schedules.command("preview")
def preview_schedule(
    cron: Cron = "",
    market: Market = "",
    time_zone: TimeZone = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the next ten occurrences, and store nothing."""
    spec = _spec("preview", cron, market, time_zone)
    preview = Api.of(data_dir).post("/api/v1/schedules:preview", {"spec": spec})
    if as_json:
        write_json(preview)
    else:
        _write_preview(preview)


@schedules.command("list")
def list_schedules(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the desk's schedules."""
    records = Api.of(data_dir).pages("/api/v1/schedules", "schedules")
    if as_json:
        write_json(records)
        return
    rows = [
        (s["name"], s["spec"]["template"], _times(s["spec"]), s["state"].lower(), format_time(s.get("next_at")))
        for s in records
    ]
    write_table(("SCHEDULE", "TEMPLATE", "TIMES", "STATE", "NEXT (UTC)"), rows, "no schedules")


@schedules.command("show")
def show_schedule(schedule: Schedule, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a schedule with its next occurrences, its latest ticks and its back-fills."""
    response = Api.of(data_dir).get(f"/api/v1/schedules/{schedule}")
    if as_json:
        write_json(response)
        return
    write(f"{response['id']}  {response['name']}  {response['state'].lower()}  {response['detail']}".rstrip())
    write(f"{response['spec']['template']}  {_times(response['spec'])}  created by {response['created_by']}\n")
    if "preview" in response:
        _write_preview(response["preview"])
    ticks = [(format_time(t["at"]), t["outcome"].lower(), t["run"], t["detail"]) for t in response["ticks"]]
    if ticks:
        write("")
        write_table(("LATEST (UTC)", "OUTCOME", "RUN", ""), ticks)
    backfills = [
        (b["id"], b["state"].lower(), f"{b['handled']}/{b['occurrences']}", b["detail"]) for b in response["backfills"]
    ]
    if backfills:
        write("")
        write_table(("BACK-FILL", "STATE", "HANDLED", ""), backfills)


@schedules.command("pause")
def pause_schedule(schedule: Schedule, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Start no further runs; open runs continue."""
    _write_state(Api.of(data_dir).post(f"/api/v1/schedules/{schedule}:pause"), as_json)


@schedules.command("resume")
def resume_schedule(schedule: Schedule, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Continue with the next occurrence."""
    _write_state(Api.of(data_dir).post(f"/api/v1/schedules/{schedule}:resume"), as_json)


@schedules.command("backfill")
def backfill_schedule(
    schedule: Schedule,
    start: Annotated[str, typer.Option("--from", help="First time, as in 2026-11-02 or 2026-11-02T13:00Z (UTC).")],
    end: Annotated[str, typer.Option("--to", help="Last time, included.")],
    concurrency: Annotated[int, typer.Option(min=1, max=20, help="Open runs at any time.")] = 1,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start a run for each past occurrence of a range that has none."""
    body = {"from": _timestamp(start), "to": _timestamp(end), "max_concurrent": concurrency}
    response = Api.of(data_dir).post(f"/api/v1/schedules/{schedule}:backfill", body)
    if as_json:
        write_json(response)
    else:
        write(f"{response['id']}: {response['occurrences']} occurrences; see `drw schedules show {schedule}`")


@schedules.command("delete")
def delete_schedule(schedule: Schedule, data_dir: DataDir = None) -> None:
    """Delete a schedule and its back-fills; open runs continue."""
    Api.of(data_dir).delete(f"/api/v1/schedules/{schedule}")
    write(f"{schedule} is deleted")


def _spec(template: str, cron: str, market: str, time_zone: str) -> dict[str, Any]:
    if bool(cron) == bool(market):
        raise InvalidRequest("give either --cron or --market")
    return {"template": template, "cron": cron, "market": market, "time_zone": time_zone}


def _times(spec: dict[str, Any]) -> str:
    return " ".join(part for part in (spec["cron"] or spec["market"], spec["time_zone"]) if part)


def _write_preview(preview: dict[str, Any]) -> None:
    rows = [(o["local"], format_time(o["at"]), _note(o)) for o in preview["occurrences"]]
    write_table((f"NEXT ({preview['time_zone']})", "UTC", ""), rows, "no occurrences")
    if preview["warning"]:
        warn(f"warning: {preview['warning']}")


def _note(occurrence: dict[str, Any]) -> str:
    return f"does not run: {occurrence['frozen']}" if occurrence["frozen"] else ""


def _write_state(schedule: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(schedule)
    else:
        write(f"{schedule['name']} is {schedule['state'].lower()}")


def _timestamp(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a time, as in 2026-11-02 or 2026-11-02T13:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
