"""`drw kill`: the kill switch for a key, desk, model or workflow."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, warn, write, write_json, write_table
from drw.cli.terminal import console
from drw.kernel.errors import DrwError, InvalidRequest, NotFound

kill = typer.Typer(
    help="Kill switch: reject a key, desk, model or workflow at once, and cut its live streams.",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]...",
)

Reason = Annotated[str, typer.Option(help="Reason, recorded in the audit log.", show_default=False)]
KillId = Annotated[str, typer.Argument(metavar="KILL", help="Kill id, from `drw kill list`.")]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(kill, name="kill", rich_help_panel=panel)


@kill.callback()
def make_kill(
    context: typer.Context,
    key: Annotated[str, typer.Option(help="Key id.", show_default=False, autocompletion=completion.keys)] = "",
    desk: Annotated[str, typer.Option(help="Desk name.", show_default=False)] = "",
    model: Annotated[str, typer.Option(help="Model name.", show_default=False, autocompletion=completion.models)] = "",
    workflow: Annotated[str, typer.Option(help="Workflow template name.", show_default=False)] = "",
    org: Annotated[
        str, typer.Option(help="Org; any other than yours requires platform:admin.", show_default=False)
    ] = "",
    reason: Reason = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Reject all new calls of one key, desk, model or workflow at once, and cut its live streams.

    Needs the scope platform:kill, and applies to your own org. With platform:admin it applies to the org that --org
    names, and without --org a model or workflow is stopped for every org. Where the policy asks for two persons, this
    proposes it, and another person's key approves it with `drw kill approve`. `drw kill lift` lets calls through again.
    """
    if context.invoked_subcommand:
        return
    subjects = {"KEY": key, "DESK": desk, "MODEL": model, "WORKFLOW": workflow}
    chosen = {subject: name for subject, name in subjects.items() if name}
    if len(chosen) != 1:
        raise InvalidRequest(
            "name exactly one subject, as in `drw kill --model NAME --reason TEXT`; see `drw kill --help`"
        )
    ((subject, name),) = chosen.items()
    api = Api.of(data_dir)
    response = api.post("/api/v1/kills", {"subject": subject, "name": name, "org": org, "reason": reason})
    if not as_json and not org and not _exists(api, subject, name):
        warn(f"drw: no {subject.lower()} {name!r} exists: check the name. It is killed all the same.")
    _print_kill(response, as_json)


@kill.command("list")
def list_kills(
    every: Annotated[bool, typer.Option("--all", help="Include ended kills.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List active and proposed kills of your org and of the whole platform."""
    kills = Api.of(data_dir).pages("/api/v1/kills", "kills", all=every)
    if as_json:
        write_json(kills)
        return
    rows = [
        (
            k["id"],
            k["subject"].lower(),
            f"{k['org']}/{k['name']}" if k["org"] else f"{k['name']} (every org)",
            _state_label(k),
            format_time(k.get("killed_at") or k["proposed_at"]),
            " ".join(k["killed_by"]),
            k["reason"],
        )
        for k in kills
    ]
    write_table(("KILL", "SUBJECT", "NAME", "STATE", "SINCE", "BY", "REASON"), rows, "nothing is killed")


@kill.command("lift")
def lift(
    kill_id: KillId,
    reason: Reason = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Lift a kill, or withdraw a proposed one. You cannot lift a kill of your own key or desk."""
    _print_kill(Api.of(data_dir).post(f"/api/v1/kills/{kill_id}:lift", {"reason": reason}), as_json)


@kill.command("approve")
def approve(kill_id: KillId, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Approve a kill or lift proposed by another person. A key that you rotated or created is not another person."""
    _print_kill(Api.of(data_dir).post(f"/api/v1/kills/{kill_id}:approve"), as_json)


def _exists(api: Api, subject: str, name: str) -> bool:
    """Return whether the name exists; True if that cannot be determined."""
    paths = {"KEY": "/api/v1/keys/", "MODEL": "/v1/models/", "WORKFLOW": "/api/v1/templates/"}
    if subject not in paths:
        return True
    try:
        api.get(f"{paths[subject]}{quote(name, safe='')}")
    except NotFound:
        return False
    except DrwError:
        pass  # this key lacks the scope, or the service does not answer
    return True


def _print_kill(response: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(response)
        return
    scope = "" if response["subject"] in ("KEY", "DESK") else f" for {response['org'] or 'every org'}"
    write(f"{response['id']}: the {response['subject'].lower()} {response['name']} is {_state_label(response)}{scope}")
    if response["approvals_missing"]:
        deadline = format_time(response["proposal_ends_at"])
        console().print(
            f"[dim]Another person's key must approve it by {deadline}: drw kill approve {response['id']}[/dim]",
            highlight=False,
        )


def _state_label(response: dict[str, Any]) -> str:
    if response["approvals_missing"] and response["state"] == "ACTIVE":
        return "killed; a lift is proposed"
    return "killed" if response["state"] == "ACTIVE" else str(response["state"]).lower()
