"""`drw limits`, `drw budgets`, `drw prices`, `drw spend`: manage limits, budgets and prices, and show spend."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

limits = typer.Typer(help="Limit requests, tokens and concurrent calls.", no_args_is_help=True)
budgets = typer.Typer(help="Limit the spend of a period.", no_args_is_help=True)
prices = typer.Typer(help="Set the prices of models.", no_args_is_help=True)

Key = Annotated[str, typer.Option(help="Key id.", show_default=False, autocompletion=completion.keys)]
Desk = Annotated[str, typer.Option(help="Desk name.", show_default=False)]
Org = Annotated[bool, typer.Option("--org", help="The whole org.")]
Model = Annotated[
    str, typer.Option(help="Model id; applies to all callers.", show_default=False, autocompletion=completion.models)
]
InOrg = Annotated[
    str, typer.Option(help="Org; any other than yours requires platform:admin.", metavar="NAME", show_default=False)
]


class Period(StrEnum):
    """Calendar period, UTC."""

    day = "day"
    month = "month"
    total = "total"


class Unit(StrEnum):
    """What a budget counts."""

    usd = "usd"
    tokens = "tokens"


class Algorithm(StrEnum):
    """How requests in a minute are counted."""

    fixed = "fixed"
    sliding = "sliding"


class WhenLost(StrEnum):
    """Behaviour while the counters are unavailable."""

    local_share = "local_share"
    fail_closed = "fail_closed"


class GroupBy(StrEnum):
    """Grouping of the sums."""

    key = "key"
    desk = "desk"
    model = "model"


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(limits, name="limits", rich_help_panel=panel)
    app.add_typer(budgets, name="budgets", rich_help_panel=panel)
    app.add_typer(prices, name="prices", rich_help_panel=panel)
    app.command(rich_help_panel=panel)(spend)


@limits.command("set")
def set_limit(
    key: Key = "",
    desk: Desk = "",
    org: Org = False,
    model: Model = "",
    in_org: InOrg = "",
    rpm: Annotated[
        int,
        typer.Option(
            min=0, help="Requests per minute; 0: unlimited. Model limits do not apply to pass-through routes."
        ),
    ] = 0,
    tpm: Annotated[int, typer.Option(min=0, help="Tokens per minute, prompt and completion; 0: unlimited.")] = 0,
    concurrent: Annotated[
        int, typer.Option(min=0, help="Concurrent calls; 0: unlimited. Does not apply to pass-through routes.")
    ] = 0,
    algorithm: Annotated[
        Algorithm, typer.Option(help="Window of token limits: fixed (clock minute) or sliding (60 seconds).")
    ] = Algorithm.fixed,
    when_lost: Annotated[
        WhenLost,
        typer.Option(help="Without the counters: each process enforces its share, or rejects all calls."),
    ] = WhenLost.local_share,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set the limits of a key, a desk, the org or a model, replacing previous ones."""
    subject, name = _subject(key, desk, org, model)
    body = {
        "subject": subject,
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "concurrent": concurrent,
        "algorithm": algorithm.value.upper(),
        "when_lost": when_lost.value.upper(),
        **({} if subject == "ORG" else {subject.lower(): name}),
    } | _org_parameter(in_org)
    response = Api.of(data_dir).post("/api/v1/limits", body)
    _print_result(response, as_json, f"the {_subject_label(subject, name)} has new limits{_pending(response)}")


@limits.command("remove")
def remove_limit(
    key: Key = "",
    desk: Desk = "",
    org: Org = False,
    model: Model = "",
    in_org: InOrg = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove the limits of a key, a desk, the org or a model."""
    subject, name = _subject(key, desk, org, model)
    response = Api.of(data_dir).post(
        "/api/v1/limits:remove", {"subject": subject, "name": name} | _org_parameter(in_org)
    )
    _print_result(
        response, as_json, f"the {_subject_label(subject, name)} has no limits of its own any more{_pending(response)}"
    )


@limits.command("list")
def list_limits(in_org: InOrg = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the limits, and the subjects that are over a limit or budget."""
    response = Api.of(data_dir).get("/api/v1/limits", **_org_parameter(in_org))
    if as_json:
        write_json(response)
        return
    rows = [
        (
            _subject_label(limit["subject"], limit["key"] or limit["model"] or limit["desk"]),
            limit["requests_per_minute"] or "-",
            limit["tokens_per_minute"] or "-",
            limit["concurrent"] or "-",
            limit["algorithm"].lower(),
            limit["when_lost"].lower(),
            _reasons(response["blocks"], limit),
        )
        for limit in response["limits"]
    ]
    columns = ("SUBJECT", "REQUESTS/MIN", "TOKENS/MIN", "CONCURRENT", "ALGORITHM", "WHEN LOST", "EXHAUSTED")
    write_table(columns, rows, "no limits of their own")
    write(f"other keys: {response['default_requests_per_minute']} requests a minute")


@budgets.command("set")
def set_budget(
    amount: Annotated[str, typer.Argument(help="Dollars, for example 12.50; with --unit tokens a number of tokens.")],
    key: Key = "",
    desk: Desk = "",
    org: Org = False,
    model: Model = "",
    in_org: InOrg = "",
    period: Annotated[Period, typer.Option(help="Period of the budget, in UTC.")] = Period.month,
    unit: Annotated[Unit, typer.Option(help="Unit of the amount.")] = Unit.usd,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set the budget of a key, a desk, the org or a model."""
    subject, name = _subject(key, desk, org, model)
    body = _budget(subject, name, period, unit) | {"amount": amount} | _org_parameter(in_org)
    response = Api.of(data_dir).post("/api/v1/budgets", body)
    _print_result(
        response,
        as_json,
        f"the {_subject_label(subject, name)} may spend {response['amount']} {unit.value} ({period.value})",
    )


@budgets.command("remove")
def remove_budget(
    key: Key = "",
    desk: Desk = "",
    org: Org = False,
    model: Model = "",
    in_org: InOrg = "",
    period: Annotated[Period, typer.Option(help="Period of the budget.")] = Period.month,
    unit: Annotated[Unit, typer.Option(help="Unit of the budget.")] = Unit.usd,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove a budget."""
    subject, name = _subject(key, desk, org, model)
    response = Api.of(data_dir).post(
        "/api/v1/budgets:remove", _budget(subject, name, period, unit) | _org_parameter(in_org)
    )
    _print_result(
        response, as_json, f"the {_subject_label(subject, name)} has no such budget any more ({period.value})"
    )


@budgets.command("list")
def list_budgets(in_org: InOrg = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the budgets with the amounts spent, reserved for calls in progress, and left."""
    records = Api.of(data_dir).get("/api/v1/budgets", **_org_parameter(in_org))["budgets"]
    if as_json:
        write_json(records)
        return
    rows = [
        (
            _subject_label(b["subject"], b["name"]),
            b["period"].lower(),
            b["unit"].lower(),
            b["amount"],
            b["spent"] or "?",
            b["reserved"] or "?",
            b["left"] or "?",
            format_time(b.get("resets_at")) or "never",
        )
        for b in records
    ]
    write_table(
        ("SUBJECT", "PERIOD", "UNIT", "AMOUNT", "SPENT", "RESERVED", "REMAINING", "RESETS AT"), rows, "no budgets"
    )


@prices.command("set")
def set_price(
    model: Annotated[str, typer.Argument(help="Model id.", autocompletion=completion.models)],
    prompt: Annotated[str, typer.Option(help="USD per million prompt tokens.")],
    completion: Annotated[str, typer.Option(help="USD per million completion tokens.")] = "0",
    version: Annotated[str, typer.Option(help="Model version as reported by the upstream. Default: any.")] = "",
    since: Annotated[str, typer.Option("--from", help="Start date, for example 2026-01-01. Default: now.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set the price of a model from now or a future time. Past calls keep their price."""
    body: dict[str, Any] = {
        "model": model,
        "version": version,
        "prompt_usd_per_million": prompt,
        "completion_usd_per_million": completion,
    }
    if since:
        body["effective_from"] = _timestamp(since, "--from")
    response = Api.of(data_dir).post("/api/v1/prices", body)
    _print_result(
        response,
        as_json,
        f"{model} costs {prompt} and {completion} USD a million from {format_time(response['effective_from'])}",
    )


@prices.command("list")
def list_prices(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List all prices: past, current and future."""
    records = Api.of(data_dir).get("/api/v1/prices")["prices"]
    if as_json:
        write_json(records)
        return
    rows = [
        (
            p["model"],
            p["version"] or "any",
            format_time(p["effective_from"]),
            p["prompt_usd_per_million"],
            p["completion_usd_per_million"],
        )
        for p in records
    ]
    write_table(("MODEL", "VERSION", "FROM", "PROMPT USD/M", "ANSWER USD/M"), rows, "no prices: every model is free")


def spend(
    by: Annotated[GroupBy, typer.Option(help="Group by.")] = GroupBy.desk,
    since: Annotated[
        str, typer.Option(help="Start date, for example 2026-01-01. Default: this month.", show_default=False)
    ] = "",
    in_org: InOrg = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the spend recorded in the ledger."""
    query = {"by": by.value, "since": _timestamp(since, "--since") if since else None} | _org_parameter(in_org)
    response = Api.of(data_dir).get("/api/v1/spend", **query)
    if as_json:
        write_json(response)
        return
    rows = [
        (line["name"], line["calls"], line["prompt_tokens"], line["completion_tokens"], line["usd"])
        for line in response["lines"]
    ]
    write_table((by.value.upper(), "CALLS", "PROMPT TOKENS", "ANSWER TOKENS", "USD"), rows, "nothing spent")
    write(f"since {format_time(response['since'])} UTC: {response['usd']} USD")


def _subject(key: str, desk: str, org: bool, model: str) -> tuple[str, str]:
    named = [(kind, name) for kind, name in (("KEY", key), ("DESK", desk), ("MODEL", model)) if name]
    named += [("ORG", "")] * org
    if len(named) != 1:
        raise InvalidRequest("say whose it is with one of --key, --desk, --org and --model")
    return named[0]


def _budget(subject: str, name: str, period: Period, unit: Unit) -> dict[str, str]:
    return {"subject": subject, "name": name, "period": period.value.upper(), "unit": unit.value.upper()}


def _org_parameter(org: str) -> dict[str, str]:
    return {"org": org} if org else {}


def _subject_label(subject: str, name: str) -> str:
    kind = subject.lower().removeprefix("subject_")
    return kind if kind == "org" else f"{kind} {name}"


def _pending(limit: dict[str, Any]) -> str:
    return f"; not enforced yet by {', '.join(limit['pending'])}" if limit["pending"] else ""


def _reasons(blocks: list[dict[str, Any]], limit: dict[str, Any]) -> str:
    name = {"KEY": limit["key"], "DESK": limit["desk"], "MODEL": limit["model"]}.get(limit["subject"], "")
    reasons = [b["reason"].lower() for b in blocks if (b["subject"], b["name"]) == (limit["subject"], name)]
    return " ".join(reasons)


def _timestamp(text: str, option: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{option} is {text!r}; write a time as in 2026-01-31 or 2026-01-31T09:00:00+00:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _print_result(response: Any, as_json: bool, text: str) -> None:
    if as_json:
        write_json(response)
    else:
        write(text)
