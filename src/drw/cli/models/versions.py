"""`drw models register`, `versions`, `show`, `evaluate`, `approve`, `revoke`, `retire`, `delete-files`, `card`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from drw.cli.api import Api
from drw.cli.models import model_card
from drw.cli.models.upload import upload_files
from drw.cli.models.validate import validate
from drw.cli.options import DataDir, Json, Walls, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

PATH = "/api/v1/model-versions"
Version = Annotated[str, typer.Argument(help="Version, from `drw models versions`.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]
KINDS = "chat, embedding, predictive or reranker"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (register, versions, show, evaluate, validate, approve, revoke, retire, delete_files, card):
        app.command()(command)


def register(
    path: Annotated[
        Path | None,
        typer.Argument(help="Folder or file of the model. Without it, give --endpoint.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model.", show_default=False)] = "",
    kind: Annotated[str, typer.Option(help=f"Kind: {KINDS}.", show_default=False)] = "",
    owner: Annotated[str, typer.Option(help="Person or team that is accountable for it.", show_default=False)] = "",
    licence: Annotated[str, typer.Option(help="Licence. Default: that of the files.", show_default=False)] = "",
    description: Annotated[str, typer.Option(help="Description.", show_default=False)] = "",
    data: Annotated[
        list[str] | None, typer.Option(help="Data set that it was trained on; repeatable.", show_default=False)
    ] = None,
    parent: Annotated[str, typer.Option(help="Version or model that it was derived from.", show_default=False)] = "",
    training_run: Annotated[str, typer.Option(help="Training run, as an id or a link.", show_default=False)] = "",
    price: Annotated[
        str, typer.Option(help="USD per million prompt and completion tokens, as in 0.10/0.40.", show_default=False)
    ] = "",
    signature: Annotated[
        Path | None,
        typer.Option(help="Signature bundle of the files.", show_default=False, dir_okay=False),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of an OpenAI-compatible upstream, in place of files; repeatable for replicas."),
    ] = None,
    upstream_model: Annotated[str, typer.Option(help="The upstream's name of the model.", show_default=False)] = "",
    api_key_variable: Annotated[
        str, typer.Option(help="Environment variable with the upstream's key.", show_default=False)
    ] = "",
    context_length: Annotated[int, typer.Option(min=0, help="Maximum tokens of an endpoint; 0: its limit.")] = 0,
    wall: Walls = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Register a version of a model: upload its files, or name an endpoint. Prints its id."""
    if not name or not kind or not owner:
        raise InvalidRequest("give --name, --kind and --owner")
    if (path is None) == (not endpoint):
        raise InvalidRequest("give the path of the files, or --endpoint: exactly one of them")
    body: dict[str, Any] = {"model": name, "kind": kind.upper(), "owner": owner, "description": description}
    body |= {"licence": licence, "walls": wall or []}
    body["lineage"] = {"data": data or [], "parent": parent, "training_run": training_run}
    if price:
        prompt, _, completion = price.partition("/")
        body["price"] = {"prompt_usd_per_million": prompt, "completion_usd_per_million": completion or "0"}
    api = Api.of(data_dir)
    if path is not None:
        body |= upload_files(api, path, signature)
    else:
        body["endpoint"] = {"base_urls": endpoint, "upstream_model": upstream_model or name}
        body["endpoint"] |= {"api_key_variable": api_key_variable, "context_length": context_length}
    version = api.post(PATH, body)
    write_json(version) if as_json else write(f"{version['id']} is {version['stage'].lower()}: {version['digest']}")


def versions(
    model: Annotated[str, typer.Option(help="Only versions of this model.", show_default=False)] = "",
    stage: Annotated[
        str, typer.Option(help="Only this stage: registered, validated, approved, live or retired.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List versions, newest first."""
    query = {"model": model or None, "stage": stage.upper() or None}
    listed = Api.of(data_dir).pages(PATH, "versions", limit, page_size=min(limit, 1000), **query)
    if as_json:
        write_json(listed)
        return
    rows = [
        (v["id"], v["kind"].lower(), v["engine"], v["stage"].lower(), " ".join(v["aliases"]), v["blocked"])
        for v in listed
    ]
    write_table(("VERSION", "KIND", "ENGINE", "STAGE", "ALIASES", "BLOCKED"), rows, "no versions")


def show(
    name: Annotated[str, typer.Argument(help="Version or model.", show_default=False)],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a version, or a model with the state of its replicas."""
    api = Api.of(data_dir)
    shown = _get(api, name) if "@" in name else api.get(f"/api/v1/models/{quote(name)}")
    if as_json:
        write_json(shown)
        return
    hidden = ("files", "validations", "evaluations", "replicas", "inputs", "outputs")
    rows = [(key, _text(value)) for key, value in shown.items() if key not in hidden and value not in ("", 0, [], None)]
    rows += [("replica", _replica(replica)) for replica in shown.get("replicas", ())]
    rows += [("file", f"{file['size']:,} bytes  {file['path']}") for file in shown.get("files", ())[:20]]
    rows += [("evaluation", _evaluation(each)) for each in shown.get("evaluations", ())[:20]]
    rows += [("validation", _validation(each)) for each in shown.get("validations", ())[:20]]
    write_table(("FIELD", "VALUE"), rows)


def evaluate(
    version: Version,
    suite: Annotated[str, typer.Option(help="Benchmark or test.", show_default=False)],
    metric: Annotated[list[str], typer.Option(help="Figure, as in auc=0.91; repeatable.", show_default=False)],
    data: Annotated[str, typer.Option(help="Data that it was evaluated on.", show_default=False)] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add an evaluation result to a version."""
    evaluation = {"suite": suite, "data": data, "metrics": dict(map(_metric, metric))}
    answer = Api.of(data_dir).post(f"{_path(version)}/evaluations", {"evaluation": evaluation})
    write_json(answer) if as_json else write(f"{answer['id']} has {len(answer['evaluations'])} evaluation results")


def approve(version: Version, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Approve the submitted validation record: traffic may then reach the version."""
    _change(data_dir, version, "approve", {}, as_json)


def revoke(version: Version, reason: Reason, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Revoke the validation of a version: traffic to it ends."""
    _change(data_dir, version, "revoke", {"reason": reason}, as_json)


def retire(version: Version, reason: Reason, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Retire a version for good."""
    _change(data_dir, version, "retire", {"reason": reason}, as_json)


def delete_files(version: Version, reason: Reason, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Delete the files of a retired version for good. Its record stays, and so do files that other versions have."""
    answer = Api.of(data_dir).post(f"{_path(version)}:deleteFiles", {"reason": reason})
    write_json(answer) if as_json else write(f"the files of {answer['id']} are deleted")


def card(
    version: Version,
    sbom: Annotated[
        Path | None,
        typer.Option(help="Write a CycloneDX ML-BOM to this file.", show_default=False, dir_okay=False),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the model card of a version in Markdown."""
    api = Api.of(data_dir)
    shown = _get(api, version)
    if sbom is not None:
        document = api.get(f"{_path(version)}/bom")["bom"]
        sbom.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write(model_card.markdown(shown))


def _change(data_dir: Path | None, version: str, action: str, body: dict[str, Any], as_json: bool) -> None:
    answer = Api.of(data_dir).post(f"{_path(version)}:{action}", body)
    blocked = f"; blocked: {answer['blocked']}" if answer["blocked"] else ""
    write_json(answer) if as_json else write(f"{answer['id']} is {answer['stage'].lower()}{blocked}")


def _get(api: Api, version: str) -> dict[str, Any]:
    return api.get(_path(version))


def _path(version: str) -> str:
    return f"{PATH}/{quote(version, safe='@')}"


def _metric(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not a figure: use for example auc=0.91") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _replica(replica: dict[str, Any]) -> str:
    status = replica["status"].removeprefix("STATUS_").lower().replace("_", " ")
    return " ".join(filter(None, (replica["name"], status, replica["error"])))


def _evaluation(evaluation: dict[str, Any]) -> str:
    metrics = " ".join(f"{name}={value:g}" for name, value in sorted(evaluation["metrics"].items()))
    return f"{evaluation['suite']} {metrics}"


def _validation(validation: dict[str, Any]) -> str:
    state = next(
        (s for s in ("revoked", "superseded", "approved") if validation.get(f"{s}_at")),
        "waits for approval",
    )
    return f"{validation['id']} {state}; expires {format_time(validation['record']['expires_at'])}"
