"""`drw routes`, `drw upstreams`: manage routes and upstreams, and explain the routing of a request."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, write, write_json, write_table
from drw.kernel.errors import InvalidRequest, Unavailable

routes = typer.Typer(help="List, change and explain routes.", no_args_is_help=True)
upstreams = typer.Typer(help="List and change upstreams.", no_args_is_help=True)

ROLLOUT_SECONDS = 15.0
UNCHANGED_SECONDS = 1.0
POLL_SECONDS = 0.1
PERIODS = {"DAY": "a day", "MONTH": "a month"}

Strings = list[str] | None


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(routes, name="routes", rich_help_panel=panel)
    app.add_typer(upstreams, name="upstreams", rich_help_panel=panel)


@routes.command("list")
def list_routes(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the routes: path, allowed tenants, required scopes, and upstreams."""
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
            _upstreams_of(r),
            _origin(r),
        )
        for r in records
    ]
    write_table(("ROUTE", "PATH", "METHODS", "SCOPES", "ONLY", "UPSTREAM", "ORIGIN"), rows)


@routes.command("set")
def set_route(
    name: Annotated[str, typer.Argument(help="Route name. An existing route is replaced.")],
    path: Annotated[str, typer.Option(help="Path prefix, for example /v1/chat/completions.")],
    upstream: Annotated[str, typer.Option(help="Upstream; or use --split.")] = "",
    split: Annotated[Strings, typer.Option(help="Weighted upstream, for example NAME=20; repeatable.")] = None,
    fallback: Annotated[Strings, typer.Option(help="Fallback upstream; repeatable, in order.")] = None,
    method: Annotated[Strings, typer.Option(help="HTTP method; repeatable. Default: any.")] = None,
    scope: Annotated[Strings, typer.Option("--scope", "-s", help="Required scope, any of them; repeatable.")] = None,
    model: Annotated[Strings, typer.Option(help="Match the model in the body; repeatable.")] = None,
    model_header: Annotated[
        bool, typer.Option(help="Match the model in the header x-model instead, without reading the body.")
    ] = False,
    header: Annotated[Strings, typer.Option(help="Match a header: NAME, NAME=VALUE or NAME=PREFIX*.")] = None,
    tenant: Annotated[Strings, typer.Option(help="Match the tenant: ORG or ORG/DESK; repeatable.")] = None,
    affinity: Annotated[
        Strings, typer.Option(help="Session affinity: key, header:NAME or body:FIELD; repeatable, in order.")
    ] = None,
    pass_through: Annotated[
        bool, typer.Option(help="Third-party upstream: strip identity headers, count usage.")
    ] = False,
    upstream_model: Annotated[str, typer.Option(help="Model name at the upstream.")] = "",
    max_body: Annotated[int, typer.Option(min=0, help="Maximum body size in bytes; 0: default.")] = 0,
    idle: Annotated[int, typer.Option(min=0, help="Maximum pause within a response, in seconds; 0: default.")] = 0,
    first_byte_ms: Annotated[int, typer.Option(min=0, help="Time to first byte; 0: unbounded.")] = 0,
    total_ms: Annotated[int, typer.Option(min=0, help="Total time; 0: unbounded.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create or replace a route. Returns once every data plane has applied it."""
    body = {
        "path": path,
        "upstream": upstream,
        "split": [_parse_share(text) for text in split or ()],
        "fallbacks": fallback or [],
        "methods": method or [],
        "scopes": scope or [],
        "models": model or [],
        "model_header": model_header,
        "headers": [_parse_header(text) for text in header or ()],
        "tenants": tenant or [],
        "affinity": affinity or [],
        "pass_through": pass_through,
        "upstream_model": upstream_model,
        "max_body_bytes": max_body,
        "idle_seconds": idle,
        "first_byte_ms": first_byte_ms,
        "total_ms": total_ms,
    }
    _apply_change(Api.of(data_dir), "PUT", f"/api/v1/routes/{name}", body, f"the route {name}", as_json=as_json)


@routes.command("delete")
def delete_route(
    name: Annotated[str, typer.Argument(help="Route name.")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Delete a route created with `set`."""
    _apply_change(Api.of(data_dir), "DELETE", f"/api/v1/routes/{name}", None, f"the route {name}", as_json=as_json)


@routes.command("explain")
def explain_route(
    path: Annotated[str, typer.Argument(help="Request path, for example /v1/chat/completions.")],
    method: Annotated[str, typer.Option(help="HTTP method.")] = "POST",
    model: Annotated[str, typer.Option(help="Model in the body.", autocompletion=completion.models)] = "",
    header: Annotated[Strings, typer.Option(help="Request header, for example x-team=quant; repeatable.")] = None,
    key: Annotated[str, typer.Option(help="Key id. Default: your key.", autocompletion=completion.keys)] = "",
    desk: Annotated[str, typer.Option(help="Desk. Default: your desk.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Explain which route a request takes, and why."""
    headers = {name: value for name, _, value in (text.partition("=") for text in header or ())}
    body = {"method": method, "path": path, "model": model, "headers": headers, "key": key, "desk": desk}
    response = Api.of(data_dir).post("/api/v1/routes:explain", body)
    if as_json:
        write_json(response)
    else:
        _print_explanation(response)


@upstreams.command("list")
def list_upstreams(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the upstreams with the circuit breaker state of each host in each data plane."""
    api = Api.of(data_dir)
    response, rollout = api.get("/api/v1/upstreams")["upstreams"], api.get("/api/v1/rollout")
    if as_json:
        write_json({"upstreams": response, "data_planes": rollout["data_planes"]})
        return
    rows = [
        (u["name"], address, u["balancing"] or "least_request", _origin(u), _circuits(rollout, u["name"], address))
        for u in response
        for address in u["addresses"]
    ]
    write_table(("UPSTREAM", "ADDRESS", "BALANCING", "ORIGIN", "CIRCUIT"), rows)


@upstreams.command("set")
def set_upstream(
    name: Annotated[str, typer.Argument(help="Upstream name. An existing upstream is replaced.")],
    address: Annotated[list[str], typer.Option(help="host:port or unix:/path; repeatable.")],
    balancing: Annotated[str, typer.Option(help="least_request, ring_hash, round_robin or random.")] = "",
    tls: Annotated[bool, typer.Option(help="Connect with TLS.")] = False,
    credential: Annotated[str, typer.Option(help="File name in the data plane's credentials folder.")] = "",
    connect_ms: Annotated[int, typer.Option(min=0, help="Connect time-out; 0: 1,000.")] = 0,
    max_connections: Annotated[int, typer.Option(min=0, help="Maximum concurrent connections; 0: 1,024.")] = 0,
    max_pending: Annotated[int, typer.Option(min=0, help="Maximum pending requests; 0: 1,024.")] = 0,
    max_requests: Annotated[int, typer.Option(min=0, help="Maximum concurrent requests; 0: 4,096.")] = 0,
    retry_percent: Annotated[
        int, typer.Option(min=0, help="Maximum concurrent retries, as a percentage of requests; 0: 20.")
    ] = 0,
    eject_after: Annotated[
        int, typer.Option(min=0, help="Consecutive failures that open a host's circuit breaker.")
    ] = 0,
    eject_ms: Annotated[int, typer.Option(min=0, help="Time that the circuit stays open; 0: 5,000.")] = 0,
    eject_on_errors: Annotated[bool, typer.Option(help="Count 5xx responses as failures.")] = False,
    when_gone: Annotated[str, typer.Option(help="Error message while the upstream does not answer.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create or replace an upstream. Returns once every data plane has applied it."""
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
    _apply_change(Api.of(data_dir), "PUT", f"/api/v1/upstreams/{name}", body, f"the upstream {name}", as_json=as_json)


@upstreams.command("delete")
def delete_upstream(
    name: Annotated[str, typer.Argument(help="Upstream name.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete an upstream created with `set`."""
    _apply_change(
        Api.of(data_dir), "DELETE", f"/api/v1/upstreams/{name}", None, f"the upstream {name}", as_json=as_json
    )


def _apply_change(api: Api, method: str, path: str, body: dict[str, Any] | None, label: str, *, as_json: bool) -> None:
    version_before = api.get("/api/v1/rollout")["version"]
    response = api.delete(path) if method == "DELETE" else api.put(path, body or {})
    rollout = _wait_for_rollout(api, version_before)
    if as_json:
        write_json({"answer": response, "rollout": rollout})
    else:
        planes = ", ".join(repr(plane["data_plane"]) for plane in rollout["data_planes"]) or "no data plane yet"
        write(f"{label} is {'deleted' if method == 'DELETE' else 'set'}; applied by: {planes}")
        for text in [*rollout["lost"], *(note for plane in rollout["data_planes"] for note in plane["notes"])]:
            write(f"note: {text}")


def _wait_for_rollout(api: Api, version_before: str) -> dict[str, Any]:
    """Return the rollout once every data plane has applied the desired state.

    Raises:
        InvalidRequest: a data plane rejects it and keeps its configuration.
        Unavailable: a data plane has not reported in time.
    """
    started_at = time.monotonic()
    while (elapsed := time.monotonic() - started_at) < ROLLOUT_SECONDS:
        response = api.get("/api/v1/rollout")
        changed = response["version"] != version_before or elapsed > UNCHANGED_SECONDS
        if changed and all(plane["version"] == response["version"] for plane in response["data_planes"]):
            if rejected := [f"{p['data_plane']!r}: {p['error']}" for p in response["data_planes"] if p["error"]]:
                raise InvalidRequest(
                    f"stored, but a data plane rejected it and keeps its previous routes: {'; '.join(rejected)}"
                )
            return response
        time.sleep(POLL_SECONDS)
    raise Unavailable(f"stored, but a data plane has not applied it within {ROLLOUT_SECONDS:.0f} s: see `drw status`")


def _conditions(route: dict[str, Any]) -> str:
    headers = [f"{h['name']}={h['exact'] or h['prefix'] + '*'}" for h in route["headers"]]
    return ", ".join([*(f"model {model}" for model in route["models"]), *route["tenants"], *headers])


def _origin(record: dict[str, Any]) -> str:
    return {"record": "runtime", "settings": "settings"}.get(record["origin"], "platform")


def _upstreams_of(route: dict[str, Any]) -> str:
    shares = " ".join(f"{share['upstream']}={share['weight']}" for share in route["split"])
    text = " > ".join([shares or route["upstream"], *route["fallbacks"]])
    return f"{text} (pass-through)" if route["pass_through"] else text


def _circuits(rollout: dict[str, Any], upstream: str, address: str) -> str:
    states = [
        h["circuit"].lower().replace("_", "-")
        for plane in rollout["data_planes"]
        for h in plane["upstreams"]
        if h["upstream"] == upstream and (h["address"] == address or not address.startswith("unix:"))
    ]
    return ", ".join(dict.fromkeys(states)) or "not seen"


def _print_explanation(response: dict[str, Any]) -> None:
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
    for model in response["models"]:
        share = f"{model['percent']:g} %" if model["percent"] else "if those before it fail"
        write(f"model: {model['model']} ({share})")
    if response["deadlines"]:
        write(f"deadlines: {'; '.join(response['deadlines'])}")
    for limit in response["limits"]:
        mark = " (the tightest)" if limit["tightest"] else ""
        write(f"limit: {limit['max']} {limit['what']}, {_limit_subject(limit)}{mark}")
    for budget in response["budgets"]:
        left = f"; {budget['left']} left" if budget["left"] else ""
        period = PERIODS.get(budget["period"], "in all")
        write(f"budget: {budget['amount']} {budget['unit']} {period}, {_limit_subject(budget)}{left}")
    for miss in response["misses"]:
        write(f"not {miss['route']}: {miss['why']}")
    for note in response["notes"]:
        write(f"note: {note}")


def _limit_subject(limit: dict[str, Any]) -> str:
    """Return the subject of a limit or budget."""
    name = limit["name"] or limit.get("org", "")
    return f"{limit['subject'].lower()} {name}" if name else "keys without a limit of their own"


def _parse_share(text: str) -> dict[str, Any]:
    name, _, weight = text.partition("=")
    if not weight.isdigit():
        raise InvalidRequest(f"{text!r} is not a share: use for example vllm=20")
    return {"upstream": name, "weight": int(weight)}


def _parse_header(text: str) -> dict[str, str]:
    name, _, value = text.partition("=")
    prefix = value.removesuffix("*") if value.endswith("*") else ""
    return {"name": name.lower(), "exact": "" if prefix else value, "prefix": prefix}
