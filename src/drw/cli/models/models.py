"""`drw models`, `drw aliases`, `drw chat`, `drw infer`: list models, manage aliases, chat, call predictive models."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.models import promotions, versions
from drw.cli.models.check import check
from drw.cli.models.conversation import Conversation, run_conversation
from drw.cli.models.inference import infer, load, loaded, unload
from drw.cli.options import DataDir, Json, write, write_json, write_table
from drw.kernel.errors import InvalidRequest, NotFound

models = typer.Typer(help="Models: list, register, validate, promote, load and check them.")
aliases = typer.Typer(help="Aliases: one name for several models, with weights and fallbacks.", no_args_is_help=True)


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.command(rich_help_panel=panel)(chat)
    app.command(rich_help_panel=panel)(infer)
    app.add_typer(models, name="models", rich_help_panel=panel)
    app.add_typer(aliases, name="aliases", rich_help_panel=panel)


models.command()(check)
versions.add_to(models)
promotions.add_to(models)
models.command()(load)
models.command()(unload)
models.command()(loaded)


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the models. Subcommands register, validate, promote, load and check models."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise InvalidRequest(f"give --json after the command: drw models {context.invoked_subcommand} ... --json")
        return
    listed = Api.of(data_dir).get("/api/v1/models")["models"]
    if as_json:
        write_json(listed)
        return
    rows = [
        (
            m["id"],
            m["kind"].lower(),
            m["engine"],
            m["context_length"],
            m["licence"],
            " ".join(m["fallbacks"]),
            "default" if m["default"] else "",
        )
        for m in listed
    ]
    write_table(("MODEL", "KIND", "ENGINE", "CONTEXT", "LICENCE", "FALLBACKS", ""), rows)


@aliases.command("list")
def list_aliases(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the aliases."""
    records = Api.of(data_dir).get("/api/v1/aliases")["aliases"]
    if as_json:
        write_json(records)
        return
    rows = [
        (
            a["name"],
            " ".join(f"{target['model']}={target['weight']}" for target in a["targets"]),
            " ".join(a["fallbacks"]),
            f"{a['total_seconds']:g} s" if a["total_seconds"] else "",
            "settings" if a["from_settings"] else a["owner"] and "promotion",
        )
        for a in records
    ]
    write_table(("ALIAS", "TARGETS", "FALLBACKS", "DEADLINE", "FROM"), rows, "no aliases")


@aliases.command("set")
def set_alias(
    name: Annotated[str, typer.Argument(help="Alias, used as the model name in requests.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Target model with weight, for example gpt-4o=90; repeatable.",
            autocompletion=completion.models,
        ),
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            "--fallback",
            "-f",
            help="Fallback model; repeatable, in order.",
            autocompletion=completion.models,
        ),
    ] = None,
    total_seconds: Annotated[
        float, typer.Option(min=0, help="Total time of a request; 0: that of the first model.")
    ] = 0.0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create or replace an alias. It applies to the next request."""
    if not target:
        raise InvalidRequest("an alias needs a target, as in `drw aliases set fast --target MODEL=1`")
    body = {
        "targets": [_parse_target(text) for text in target],
        "fallbacks": fallback or [],
        "total_seconds": total_seconds,
    }
    response = Api.of(data_dir).put(f"/api/v1/aliases/{quote(name, safe='')}", body)
    if as_json:
        write_json(response)
    else:
        write(f"{name} now routes to {', '.join(target)}")


@aliases.command("delete")
def delete_alias(
    name: Annotated[str, typer.Argument(help="Alias, from `drw aliases list`.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete an alias. An alias of the same name in the settings applies again."""
    response = Api.of(data_dir).delete(f"/api/v1/aliases/{quote(name, safe='')}")
    if as_json:
        write_json(response)
    else:
        write(f"{name} is deleted")


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="Prompt; `-` reads standard input. Without a prompt, start a conversation with one message per line.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[str, typer.Option("--system", help="System message.", show_default=False)] = "",
    model: Annotated[
        str,
        typer.Option(
            help="Model. Default: the platform's default model.", show_default=False, autocompletion=completion.models
        ),
    ] = "",
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="Sampling temperature; 0 is greedy. Default: the model's."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum answer length in tokens.")] = 256,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Send a prompt to a model and stream the answer. Without a prompt, start a conversation."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if text is not None and not text.strip():
        raise InvalidRequest("the prompt is empty: give a prompt, or `-` and text on standard input")
    api = Api.of(data_dir)
    request: dict[str, Any] = {"model": model or _default_model(api), "max_tokens": max_tokens}
    if temperature is not None:
        request["temperature"] = temperature
    conversation = Conversation(api, request, system, as_json=as_json)
    if text is None:
        run_conversation(conversation)
    else:
        conversation.ask(text)


def _default_model(api: Api) -> str:
    for model in api.get("/api/v1/models")["models"]:
        if model["default"] and model["kind"] == "CHAT":
            return str(model["id"])
    raise NotFound("the platform has no default chat model: name one with --model; `drw models` lists them")


def _parse_target(text: str) -> dict[str, Any]:
    model, separator, weight = text.rpartition("=")
    if not separator:
        return {"model": text, "weight": 1}
    if not model or not weight.isdecimal() or len(weight) > 7:
        raise InvalidRequest(f"{text!r} is not a target: use for example gpt-4o=90")
    return {"model": model, "weight": int(weight)}
