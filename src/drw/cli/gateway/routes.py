"""`drw routes`, `drw upstreams`: which way a request goes, and where it ends."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, write, write_json, write_table
from drw.kernel.errors import InvalidRequest, Unavailable

routes = typer.Typer(help="List, change and explain the routes of the gateway.", no_args_is_help=True)
upstreams = typer.Typer(help="List and change where routes lead.", no_args_is_help=True)

ROLLOUT_SECONDS = 15.0
UNCHANGED_SECONDS = 1.0
PAUSE_SECONDS = 0.1
PERIODS = {"DAY": "a day", "MONTH": "a month"}

Words = list[str] | None


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(routes, name="routes", rich_help_panel=panel)
    app.add_typer(upstreams, name="upstreams", rich_help_panel=panel)


@routes.command("list")
def list_routes(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the routes: path, who may take it, what it asks for, and where it leads."""
    records = Api.of(data_dir).get("/api/v1/routes")["routes"]
    if as_json:
        write_json(records)
        return
    rows = [
        (
            r["name"],
            r["path"],
            " ".join(r["methods"]) or "any",
            " or ".join(r["scopes"]) or "the service checks",
            _conditions(r) or "none",
            _where(r),
            r["origin"],
        )
        for r in records
    ]
    write_table(("ROUTE", "PATH", "METHODS", "SCOPES", "ONLY", "UPSTREAM", "SAID BY"), rows)


@routes.command("set")
def set_route(
    name: Annotated[str, typer.Argument(help="The name of the route; one of this name is replaced.")],
    path: Annotated[str, typer.Option(help="The path, as in /v1/chat/completions; also all below it.")],
    upstream: Annotated[str, typer.Option(help="Where it leads; or --split.")] = "",
    split: Annotated[Words, typer.Option(help="A share, as in NAME=20; repeat it.")] = None,
    fallback: Annotated[Words, typer.Option(help="Where requests go next; repeat it in order.")] = None,
    method: Annotated[Words, typer.Option(help="An HTTP method; repeat it. By default any.")] = None,
    scope: Annotated[Words, typer.Option("--scope", "-s", help="Who may take it: one of these; repeat it.")] = None,
    model: Annotated[Words, typer.Option(help="Only this model of the body; repeat it.")] = None,
    model_header: Annotated[bool, typer.Option(help="Or of the header x-model, with the body unread.")] = False,
    header: Annotated[Words, typer.Option(help="Only with this header: NAME, NAME=VALUE or NAME=BEGIN*.")] = None,
    tenant: Annotated[Words, typer.Option(help="Only for this ORG or ORG/DESK; repeat it.")] = None,
    affinity: Annotated[Words, typer.Option(help="key, header:NAME or body:FIELD; repeat it in order.")] = None,
    pass_through: Annotated[bool, typer.Option(help="The upstream is not ours: strip identity, count usage.")] = False,
    upstream_model: Annotated[str, typer.Option(help="What the upstream calls the model.")] = "",
    max_body: Annotated[int, typer.Option(min=0, help="The largest body in bytes; 0: the default.")] = 0,
    idle: Annotated[int, typer.Option(min=0, help="The longest pause in an answer, in seconds; 0: the default.")] = 0,
    first_byte_ms: Annotated[int, typer.Option(min=0, help="Until the answer begins; 0: unbounded.")] = 0,
    total_ms: Annotated[int, typer.Option(min=0, help="Until the answer has ended; 0: unbounded.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a route, or replace one; returns when every data plane has taken it."""
    body = {
        "path": path,
        "upstream": upstream,
        "split": [_share(text) for text in split or ()],
        "fallbacks": fallback or [],
        "methods": method or [],
        "scopes": scope or [],
        "models": model or [],
        "model_header": model_header,
        "headers": [_header(text) for text in header or ()],
        "tenants": tenant or [],
        "affinity": affinity or [],
        "pass_through": pass_through,
        "upstream_model": upstream_model,
        "max_body_bytes": max_body,
        "idle_seconds": idle,
        "first_byte_ms": first_byte_ms,
        "total_ms": total_ms,
    }
    _change(Api.of(data_dir), "PUT", f"/api/v1/routes/{name}", body, f"the route {name}", as_json=as_json)


@routes.command("delete")
def delete_route(
    name: Annotated[str, typer.Argument(help="The name of the route.")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Take a route away that `set` made."""
    _change(Api.of(data_dir), "DELETE", f"/api/v1/routes/{name}", None, f"the route {name}", as_json=as_json)


@routes.command("explain")
def explain_route(
    path: Annotated[str, typer.Argument(help="The path of the request, as in /v1/chat/completions.")],
    method: Annotated[str, typer.Option(help="Its HTTP method.")] = "POST",
    model: Annotated[str, typer.Option(help="The model that its body names.", autocompletion=completion.models)] = "",
    header: Annotated[Words, typer.Option(help="A header, as in x-team=quant; repeat it.")] = None,
    key: Annotated[
        str, typer.Option(help="As which key, by its id; by default your own.", autocompletion=completion.keys)
    ] = "",
    desk: Annotated[str, typer.Option(help="As which desk.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say which route a request would take, and why."""
    headers = {name: value for name, _, value in (text.partition("=") for text in header or ())}
    body = {"method": method, "path": path, "model": model, "headers": headers, "key": key, "desk": desk}
    response = Api.of(data_dir).post("/api/v1/routes:explain", body)
    if as_json:
        write_json(response)
    else:
        _explain(response)


@upstreams.command("list")
def list_upstreams(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the upstreams, with the circuit of each host as every data plane sees it."""
    api = Api.of(data_dir)
    response, rollout = api.get("/api/v1/upstreams")["upstreams"], api.get("/api/v1/rollout")
    if as_json:
        write_json({"upstreams": response, "data_planes": rollout["data_planes"]})
        return
    rows = [
        (u["name"], address, u["balancing"] or "least_request", u["origin"], _circuits(rollout, u["name"], address))
        for u in response
        for address in u["addresses"]
    ]
    write_table(("UPSTREAM", "ADDRESS", "BALANCING", "SAID BY", "CIRCUIT"), rows)


@upstreams.command("set")
def set_upstream(
    name: Annotated[str, typer.Argument(help="The name of the upstream; one of this name is replaced.")],
    address: Annotated[list[str], typer.Option(help="host:port or unix:/path; repeat it.")],
    balancing: Annotated[str, typer.Option(help="least_request, ring_hash, round_robin or random.")] = "",
    tls: Annotated[bool, typer.Option(help="Speak to it by TLS.")] = False,
    credential: Annotated[str, typer.Option(help="The file in the data plane's folder of credentials.")] = "",
    connect_ms: Annotated[int, typer.Option(min=0, help="How long a connection may take; 0: 1,000.")] = 0,
    max_connections: Annotated[int, typer.Option(min=0, help="At once; 0: 1,024.")] = 0,
    max_pending: Annotated[int, typer.Option(min=0, help="Requests that may wait; 0: 1,024.")] = 0,
    max_requests: Annotated[int, typer.Option(min=0, help="At once; 0: 4,096.")] = 0,
    retry_percent: Annotated[int, typer.Option(min=0, help="Retries at once, of the requests; 0: 20.")] = 0,
    eject_after: Annotated[int, typer.Option(min=0, help="Failures in a row that open a host's circuit.")] = 0,
    eject_ms: Annotated[int, typer.Option(min=0, help="For how long; 0: 5,000.")] = 0,
    eject_on_errors: Annotated[bool, typer.Option(help="Also by answers of 5xx.")] = False,
    when_gone: Annotated[str, typer.Option(help="What a client reads while it does not answer.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make an upstream, or replace one; returns when every data plane has taken it."""
    body = {
        "addresses": address,
        "balancing": balancing,
        "tls": tls,
        "credential": credential,
        "connect_ms": connect_ms,
        "max_connections": max_connections,
        "max_pending": max_pending,
        "max_requests": max_requests,
        "retry_percent": retry_percent,
        "eject_after": eject_after,
        "eject_ms": eject_ms,
        "eject_on_errors": eject_on_errors,
        "when_gone": when_gone,
    }
    _change(Api.of(data_dir), "PUT", f"/api/v1/upstreams/{name}", body, f"the upstream {name}", as_json=as_json)


@upstreams.command("delete")
def delete_upstream(
    name: Annotated[str, typer.Argument(help="The name of the upstream.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take an upstream away that `set` made."""
    _change(Api.of(data_dir), "DELETE", f"/api/v1/upstreams/{name}", None, f"the upstream {name}", as_json=as_json)


def _change(api: Api, verb: str, path: str, body: dict[str, Any] | None, what: str, *, as_json: bool) -> None:
    before = api.get("/api/v1/rollout")["version"]
    answer = api.delete(path) if verb == "DELETE" else api.put(path, body or {})
    rollout = _rolled_out(api, before)
    if as_json:
        write_json({"answer": answer, "rollout": rollout})
    else:
        planes = ", ".join(repr(plane["data_plane"]) for plane in rollout["data_planes"]) or "no data plane yet"
        write(f"{what} is {'deleted' if verb == 'DELETE' else 'set'}; it counts on: {planes}")
        for text in [*rollout["lost"], *(note for plane in rollout["data_planes"] for note in plane["notes"])]:
            write(f"note: {text}")


def _rolled_out(api: Api, before: str) -> dict[str, Any]:
    """Return the rollout once every data plane has taken what is wanted.

    Raises:
        InvalidRequest: one refuses it; it goes on with what it had.
        Unavailable: one has not said anything in time.
    """
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < ROLLOUT_SECONDS:
        response = api.get("/api/v1/rollout")
        changed = response["version"] != before or waited > UNCHANGED_SECONDS
        if changed and all(plane["version"] == response["version"] for plane in response["data_planes"]):
            if refused := [f"{p['data_plane']!r}: {p['error']}" for p in response["data_planes"] if p["error"]]:
                raise InvalidRequest(f"kept, but a data plane goes on with the routes before it: {'; '.join(refused)}")
            return response
        time.sleep(PAUSE_SECONDS)
    raise Unavailable(f"kept, but a data plane has not taken it within {ROLLOUT_SECONDS:.0f} s: `drw status` says more")


def _conditions(route: dict[str, Any]) -> str:
    headers = [f"{h['name']}={h['exact'] or h['prefix'] + '*'}" for h in route["headers"]]
    return ", ".join([*(f"model {model}" for model in route["models"]), *route["tenants"], *headers])


def _where(route: dict[str, Any]) -> str:
    shares = " ".join(f"{share['upstream']}={share['weight']}" for share in route["split"])
    text = " > ".join([shares or route["upstream"], *route["fallbacks"]])
    return f"{text} (pass-through)" if route["pass_through"] else text


def _circuits(rollout: dict[str, Any], upstream: str, address: str) -> str:
    seen = [
        h["circuit"].lower().replace("_", "-")
        for plane in rollout["data_planes"]
        for h in plane["upstreams"]
        if h["upstream"] == upstream and (h["address"] == address or not address.startswith("unix:"))
    ]
    return ", ".join(dict.fromkeys(seen)) or "not seen"


def _explain(response: dict[str, Any]) -> None:
    write(f"route: {response['route'] or 'none'}")
    write(f"why: {response['why']}")
    principal = f"{response['key'] or 'any key'} of {response['org']}/{response['desk']}"
    write(f"as: {principal}")
    if response["refused"]:
        write(f"refused: {response['refused']}")
    if response["reads_body"]:
        write("the body is read to find the route")
    for target in response["targets"]:
        share = "if those before it fail" if target["fallback"] else f"{target['percent']:g} %"
        write(f"to: {target['upstream']} at {', '.join(target['addresses'])} ({share})")
    for one in response["models"]:
        share = f"{one['percent']:g} %" if one["percent"] else "if those before it fail"
        write(f"model: {one['model']} ({share})")
    if response["deadlines"]:
        write(f"deadlines: {'; '.join(response['deadlines'])}")
    for bound in response["limits"]:
        mark = " (the tightest)" if bound["tightest"] else ""
        write(f"limit: {bound['most']} {bound['what']}, {_whose(bound)}{mark}")
    for budget in response["budgets"]:
        left = f"; {budget['left']} left" if budget["left"] else ""
        period = PERIODS.get(budget["period"], "in all")
        write(f"budget: {budget['amount']} {budget['unit']} {period}, {_whose(budget)}{left}")
    for miss in response["misses"]:
        write(f"not {miss['route']}: {miss['why']}")
    for note in response["notes"]:
        write(f"note: {note}")


def _whose(bound: dict[str, Any]) -> str:
    """Return whom a limit or a budget is for."""
    name = bound["name"] or bound.get("org", "")
    return f"{bound['subject'].lower()} {name}" if name else "keys without a limit of their own"


def _share(text: str) -> dict[str, Any]:
    name, _, weight = text.partition("=")
    if not weight.isdigit():
        raise InvalidRequest(f"{text!r} is not a share: write it as in vllm=20")
    return {"upstream": name, "weight": int(weight)}


def _header(text: str) -> dict[str, str]:
    name, _, value = text.partition("=")
    prefix = value.removesuffix("*") if value.endswith("*") else ""
    return {"name": name.lower(), "exact": "" if prefix else value, "prefix": prefix}
