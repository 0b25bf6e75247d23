"""`drw limits`, `drw budgets`, `drw prices`, `drw spend`: manage limits, budgets and prices, and show spend."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, when, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

limits = typer.Typer(help="Limit requests, tokens and concurrent calls.", no_args_is_help=True)
budgets = typer.Typer(help="Limit the spend of a period.", no_args_is_help=True)
prices = typer.Typer(help="Set the prices of models.", no_args_is_help=True)

Key = Annotated[str, typer.Option(help="Key id.", show_default=False, autocompletion=completion.keys)]
Desk = Annotated[str, typer.Option(help="Desk name.", show_default=False)]
Org = Annotated[bool, typer.Option("--org", help="The whole org.")]
Model = Annotated[
    str, typer.Option(help="The id of a model, whoever calls it.", show_default=False, autocompletion=completion.models)
]
InOrg = Annotated[
    str, typer.Option(help="Of another org than your own; needs platform:admin.", metavar="NAME", show_default=False)
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


class By(StrEnum):
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
        int, typer.Option(min=0, help="Requests a minute; 0: no bound. A model's: not on pass-through routes.")
    ] = 0,
    tpm: Annotated[int, typer.Option(min=0, help="Tokens a minute, prompt and answer; 0: no bound.")] = 0,
    concurrent: Annotated[int, typer.Option(min=0, help="Calls at once; 0: no bound. Not on pass-through routes.")] = 0,
    algorithm: Annotated[
        Algorithm, typer.Option(help="fixed: by the minute of the clock, but for requests. sliding: any 60 seconds.")
    ] = Algorithm.fixed,
    when_lost: Annotated[
        WhenLost,
        typer.Option(help="What holds while the counters are away: each process its share, or nothing passes."),
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
    } | _of(in_org)
    done = Api.of(data_dir).post("/api/v1/limits", body)
    _said(done, as_json, f"the {_whose(subject, name)} has new limits{_pending(done)}")


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
    done = Api.of(data_dir).post("/api/v1/limits:remove", {"subject": subject, "name": name} | _of(in_org))
    _said(done, as_json, f"the {_whose(subject, name)} has no limits of its own any more{_pending(done)}")


@limits.command("list")
def list_limits(in_org: InOrg = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the limits, and the subjects that are over a limit or budget."""
    response = Api.of(data_dir).get("/api/v1/limits", **_of(in_org))
    if as_json:
        write_json(response)
        return
    rows = [
        (
            _whose(limit["subject"], limit["key"] or limit["model"] or limit["desk"]),
            limit["requests_per_minute"] or "-",
            limit["tokens_per_minute"] or "-",
            limit["concurrent"] or "-",
            limit["algorithm"].lower(),
            limit["when_lost"].lower(),
            _reasons(response["blocks"], limit),
        )
        for limit in response["limits"]
    ]
    columns = ("WHOSE", "REQUESTS/MIN", "TOKENS/MIN", "AT ONCE", "COUNTED", "WHEN LOST", "USED UP")
    write_table(columns, rows, "no limits of their own")
    write(f"other keys: {response['default_requests_per_minute']} requests a minute")


@budgets.command("set")
def set_budget(
    amount: Annotated[str, typer.Argument(help="Dollars as in 12.50, or a number of tokens with --unit tokens.")],
    key: Key = "",
    desk: Desk = "",
    org: Org = False,
    model: Model = "",
    in_org: InOrg = "",
    period: Annotated[Period, typer.Option(help="In which time; UTC.")] = Period.month,
    unit: Annotated[Unit, typer.Option(help="What is counted.")] = Unit.usd,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set the budget of a key, a desk, the org or a model."""
    subject, name = _subject(key, desk, org, model)
    body = _budget(subject, name, period, unit) | {"amount": amount} | _of(in_org)
    response = Api.of(data_dir).post("/api/v1/budgets", body)
    _said(
        response, as_json, f"the {_whose(subject, name)} may spend {response['amount']} {unit.value} ({period.value})"
    )


@budgets.command("remove")
def remove_budget(
    key: Key = "",
    desk: Desk = "",
    org: Org = False,
    model: Model = "",
    in_org: InOrg = "",
    period: Annotated[Period, typer.Option(help="Of which time.")] = Period.month,
    unit: Annotated[Unit, typer.Option(help="What it counts.")] = Unit.usd,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove a budget."""
    subject, name = _subject(key, desk, org, model)
    done = Api.of(data_dir).post("/api/v1/budgets:remove", _budget(subject, name, period, unit) | _of(in_org))
    _said(done, as_json, f"the {_whose(subject, name)} has no such budget any more ({period.value})")


@budgets.command("list")
def list_budgets(in_org: InOrg = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the budgets with the amounts spent, reserved for calls in progress, and left."""
    records = Api.of(data_dir).get("/api/v1/budgets", **_of(in_org))["budgets"]
    if as_json:
        write_json(records)
        return
    rows = [
        (
            _whose(b["subject"], b["name"]),
            b["period"].lower(),
            b["unit"].lower(),
            b["amount"],
            b["spent"] or "?",
            b["reserved"] or "?",
            b["left"] or "?",
            when(b.get("resets_at")) or "never",
        )
        for b in records
    ]
    write_table(("WHOSE", "PERIOD", "UNIT", "AMOUNT", "SPENT", "RESERVED", "LEFT", "BEGINS ANEW"), rows, "no budgets")


@prices.command("set")
def set_price(
    model: Annotated[str, typer.Argument(help="The id of the model.", autocompletion=completion.models)],
    prompt: Annotated[str, typer.Option(help="USD for a million tokens of prompts.")],
    completion: Annotated[str, typer.Option(help="USD for a million tokens of answers.")] = "0",
    version: Annotated[str, typer.Option(help="The upstream's own name for what it serves; by default any.")] = "",
    since: Annotated[str, typer.Option("--from", help="From when on, as in 2026-01-01; by default now.")] = "",
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
        body["effective_from"] = _moment(since, "--from")
    response = Api.of(data_dir).post("/api/v1/prices", body)
    _said(
        response,
        as_json,
        f"{model} costs {prompt} and {completion} USD a million from {when(response['effective_from'])}",
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
            when(p["effective_from"]),
            p["prompt_usd_per_million"],
            p["completion_usd_per_million"],
        )
        for p in records
    ]
    write_table(("MODEL", "VERSION", "FROM", "PROMPT USD/M", "ANSWER USD/M"), rows, "no prices: every model is free")


def spend(
    by: Annotated[By, typer.Option(help="What to sum up.")] = By.desk,
    since: Annotated[
        str, typer.Option(help="From when on, as in 2026-01-01; by default this month.", show_default=False)
    ] = "",
    in_org: InOrg = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the spend recorded in the ledger."""
    query = {"by": by.value, "since": _moment(since, "--since") if since else None} | _of(in_org)
    response = Api.of(data_dir).get("/api/v1/spend", **query)
    if as_json:
        write_json(response)
        return
    rows = [
        (line["name"], line["calls"], line["prompt_tokens"], line["completion_tokens"], line["usd"])
        for line in response["lines"]
    ]
    write_table((by.value.upper(), "CALLS", "PROMPT TOKENS", "ANSWER TOKENS", "USD"), rows, "nothing spent")
    write(f"since {when(response['since'])} UTC: {response['usd']} USD")


def _subject(key: str, desk: str, org: bool, model: str) -> tuple[str, str]:
    named = [(kind, name) for kind, name in (("KEY", key), ("DESK", desk), ("MODEL", model)) if name]
    named += [("ORG", "")] * org
    if len(named) != 1:
        raise InvalidRequest("say whose it is with one of --key, --desk, --org and --model")
    return named[0]


def _budget(subject: str, name: str, period: Period, unit: Unit) -> dict[str, str]:
    return {"subject": subject, "name": name, "period": period.value.upper(), "unit": unit.value.upper()}


def _of(org: str) -> dict[str, str]:
    return {"org": org} if org else {}


def _whose(subject: str, name: str) -> str:
    kind = subject.lower().removeprefix("subject_")
    return kind if kind == "org" else f"{kind} {name}"


def _pending(limit: dict[str, Any]) -> str:
    return f"; not enforced yet by {', '.join(limit['pending'])}" if limit["pending"] else ""


def _reasons(blocks: list[dict[str, Any]], limit: dict[str, Any]) -> str:
    name = {"KEY": limit["key"], "DESK": limit["desk"], "MODEL": limit["model"]}.get(limit["subject"], "")
    mine = [b["reason"].lower() for b in blocks if (b["subject"], b["name"]) == (limit["subject"], name)]
    return " ".join(mine)


def _moment(text: str, option: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{option} is {text!r}; write a time as in 2026-01-31 or 2026-01-31T09:00:00+00:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _said(answer: Any, as_json: bool, text: str) -> None:
    if as_json:
        write_json(answer)
    else:
        write(text)
