"""`drw runs approvals|approve|reject|delegate|delegations|end-delegation|link`: decide steps that wait for approval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

LINKS = "/api/v1/approvalLinks/"
ANY_RUN = "all"

Run = Annotated[str, typer.Argument(help="Run id, from `drw runs list`.", show_default=False)]
RunOrLink = Annotated[str, typer.Argument(help="Run id, or a link from `drw runs link`.", show_default=False)]
LinkedStep = Annotated[
    str, typer.Argument(help="Step id, from `drw runs approvals`; none with a link.", show_default=False)
]
WaitingStep = Annotated[str, typer.Argument(help="Step id, from `drw runs approvals`.", show_default=False)]
Comment = Annotated[str, typer.Option(help="Reason, shown in the output of the step.")]
Values = Annotated[
    list[str] | None,
    typer.Option("--value", "-v", help="NAME=VALUE of the form; the value is JSON or a text. Repeatable."),
]


def add_commands(runs: typer.Typer) -> None:
    """Add the commands to `drw runs`."""
    runs.command("approvals")(list_approvals)
    runs.command("approve")(approve)
    runs.command("reject")(reject)
    runs.command("link")(create_link)
    runs.command("delegate")(delegate)
    runs.command("delegations")(list_delegations)
    runs.command("end-delegation")(end_delegation)


def list_approvals(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the steps that wait for approval, oldest first."""
    approvals = Api.of(data_dir).get("/api/v1/approvals")["approvals"]
    if as_json:
        write_json(approvals)
        return
    rows = [
        (
            *(a["run"], a["step"], a["title"], f"{len(a['votes'])} of {a['quorum']}"),
            *(format_time(a.get("deadline")), a["started_by"], ", ".join(a["approvers"])),
        )
        for a in approvals
    ]
    columns = ("RUN", "STEP", "TITLE", "APPROVALS", "DEADLINE", "STARTED BY", "APPROVERS")
    write_table(columns, rows, "nothing waits for approval")
    for approval in approvals:
        if "form" in approval:
            write(f"\n{approval['step']} of {approval['run']} has the form: {json.dumps(approval['form'])}")
            if "values" in approval:
                write(f"the first approval has the values: {json.dumps(approval['values'])}")


def approve(
    run: RunOrLink,
    step: LinkedStep = "",
    values: Values = None,
    comment: Comment = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Approve a waiting step. The person who started the run cannot."""
    body: dict[str, Any] = {"decision": "APPROVE", "comment": comment}
    if values:
        body["values"] = _values(values)
    _decide(data_dir, run, step, body, as_json)


def reject(
    run: RunOrLink, step: LinkedStep = "", comment: Comment = "", data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Reject a waiting step. The person who started the run cannot."""
    _decide(data_dir, run, step, {"decision": "REJECT", "comment": comment}, as_json)


def create_link(
    run: Run,
    step: WaitingStep,
    approver: Annotated[str, typer.Option("--for", help="Id of the approver. Default: your key.")] = "",
    ttl: Annotated[int, typer.Option(min=1, max=2592000, help="Seconds until the link expires.")] = 86400,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a link to an approval for one approver. It works once, and only with the key of the approver."""
    api = Api.of(data_dir)
    response = api.post(LINKS.rstrip("/"), {"run": run, "step": step, "approver": approver, "ttl_seconds": ttl})
    if as_json:
        write_json(response)
    else:
        write(f"{api.address}{response['path']}")
        write(f"\nfor {response['approver']}, until {format_time(response['expires_at'])}")


def delegate(
    run: Annotated[str, typer.Argument(help='Run id, or "all" for all approvals.', show_default=False)],
    step: LinkedStep = "",
    to: Annotated[str, typer.Option("--to", help="Id of the key or caller that decides for you.")] = "",
    desk: Annotated[str, typer.Option(help="Desk of the delegate. Default: yours.")] = "",
    ttl: Annotated[int, typer.Option(min=1, max=2592000, help="Seconds until the delegation ends.")] = 604800,
    reason: Annotated[str, typer.Option(help="Reason.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let another person decide for you: one approval, or all for a time."""
    if not to:
        raise InvalidRequest("name the delegate with --to")
    if (run == ANY_RUN) == bool(step):
        raise InvalidRequest('name a run and a step, or "all" without a step')
    body = {"delegate": to, "delegate_desk": desk, "ttl_seconds": ttl, "reason": reason}
    response = Api.of(data_dir).post(
        "/api/v1/delegations", body | ({} if run == ANY_RUN else {"run": run, "step": step})
    )
    if as_json:
        write_json(response)
    else:
        write(f"{response['id']}: {to} decides for you until {format_time(response['expires_at'])}")


def list_delegations(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the delegations in force of your desk and to you, newest first."""
    delegations = Api.of(data_dir).get("/api/v1/delegations")["delegations"]
    if as_json:
        write_json(delegations)
        return
    rows = [
        (
            *(d["id"], d["approver"], d["delegate"], f"{d['run']} {d['step']}".strip() or "all approvals"),
            format_time(d.get("expires_at")),
        )
        for d in delegations
    ]
    write_table(("DELEGATION", "APPROVER", "DELEGATE", "FOR", "UNTIL"), rows, "no delegations")


def end_delegation(
    delegation: Annotated[str, typer.Argument(help="Id, from `drw runs delegations`.", show_default=False)],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a delegation, and those that were passed on from it. Votes stay."""
    response = Api.of(data_dir).delete(f"/api/v1/delegations/{delegation}")
    if as_json:
        write_json(response)
    else:
        write(f"{delegation} has ended")


def _decide(data_dir: Path | None, run: str, step: str, body: dict[str, Any], as_json: bool) -> None:
    is_link = "/" in run
    if is_link == bool(step):
        raise InvalidRequest("name a run and a step, or a link without a step")
    path = LINKS + urlsplit(run).path.rpartition("/")[2] if is_link else f"/api/v1/runs/{run}/approvals/{step}"
    response = Api.of(data_dir).post(path, body)
    if as_json:
        write_json(response)
    else:
        state, votes = response["state"].lower(), f"{len(response['votes'])} of {response['quorum']} votes"
        write(f"{response['step']} of {response['run']} is {state}: {votes}")


def _values(texts: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidRequest(f"{text!r} is not NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
