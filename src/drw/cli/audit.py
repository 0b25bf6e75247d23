"""`drw audit`: list audit records, show inclusion proofs and checkpoints, verify the log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, warn, write, write_json, write_table

DETAILS_WIDTH = 120
"""Maximum length of the details in a table, in characters. --json shows all."""

audit = typer.Typer(help="Read and verify the audit log.", no_args_is_help=True)


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(audit, name="audit", rich_help_panel=panel)


@audit.command("list")
def list_records(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of records.")] = 20,
    action: Annotated[str, typer.Option(help="Only this action, for example model.chat.")] = "",
    key: Annotated[str, typer.Option(help="Only actions of this key.", autocompletion=completion.keys)] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List records, newest first."""
    response = Api.of(data_dir).pages(
        "/api/v1/audit/records", "records", limit=limit, page_size=min(limit, 500), action=action, actor=key
    )
    if as_json:
        write_json(response)
        return
    rows = [
        (
            r["index"],
            format_time(r.get("at")),
            r["action"],
            r["desk"],
            r["actor"],
            r["resource"],
            r["outcome"],
            _abbreviated(r.get("details") or {}),
        )
        for r in response
    ]
    write_table(("INDEX", "AT", "ACTION", "DESK", "KEY", "RESOURCE", "OUTCOME", ""), rows, "no records")


@audit.command("proof")
def prove_record(
    index: Annotated[int, typer.Argument(help="Record index.")],
    data_dir: DataDir = None,
    as_json: Json = True,
) -> None:
    """Show the inclusion proof of a record as JSON. Anyone can verify it without the platform."""
    write_json(Api.of(data_dir).get(f"/api/v1/audit/records/{index}/proof"))


@audit.command("checkpoint")
def show_checkpoint(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print the newest signed checkpoint. Store it elsewhere and verify against it later with --earlier."""
    response = Api.of(data_dir).get("/api/v1/audit/checkpoint")
    if as_json:
        write_json(response)
    else:
        sys.stdout.write(response["note"])  # unchanged, because it is signed
        warn(f"The log's verifier key: {response['verifier_key']}")


@audit.command("verify")
def verify_log(
    earlier: Annotated[
        Path | None,
        typer.Option(help="Earlier checkpoint file, which the log must extend.", exists=True),
    ] = None,
    offline: Annotated[
        Path | None,
        typer.Option(
            help="Verify the log files in this folder without the platform. Default location: .drw/services/log/tlog.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    key: Annotated[str, typer.Option(help="Verifier key for --offline. Default: the key in the folder.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Verify the whole log against its checkpoint and the database."""
    note = earlier.read_text(encoding="utf-8") if earlier else ""
    report = (
        _verify_offline(offline, key, note)
        if offline
        else Api.of(data_dir).post("/api/v1/audit:verify", {"earlier_note": note})
    )
    if as_json:
        write_json(report)
    elif report["ok"]:
        write(f"ok: {report['records']} records, and the checkpoint covers every one of them")
    else:
        write(f"NOT ok: {report['problem']}")
    if not report["ok"]:
        raise typer.Exit(1)


def _verify_offline(folder: Path, key: str, note: str) -> dict[str, Any]:
    from drw.audit.offline import verify  # imported here, because it loads more than other commands need

    report = verify(folder, key, note)
    return {"ok": report.ok, "records": report.records, "problem": report.problem, "checkpoint": {"note": report.note}}


def _abbreviated(details: dict[str, Any]) -> str:
    """Return the details as JSON, with as many complete members as fit, and an ellipsis for the rest."""
    members = [json.dumps({name: value}, ensure_ascii=False)[1:-1] for name, value in details.items()]
    included: list[str] = []
    while members and len(", ".join([*included, members[0]])) <= DETAILS_WIDTH:
        included.append(members.pop(0))
    return f"{{{', '.join([*included, '…'] if members else included)}}}"
