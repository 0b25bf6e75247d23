"""`drw models`, `drw chat`: the models, and one of them at work."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, write, write_json, write_table
from drw.kernel.errors import InvalidRequest


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.command(rich_help_panel=panel)(chat)
    app.command(rich_help_panel=panel)(models)


def models(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the models."""
    found = Api.of(data_dir).get("/api/v1/models")["models"]
    if as_json:
        write_json(found)
        return
    rows = [
        (m["id"], m["kind"].lower(), m["engine"], m["context_length"], m["licence"], "default" if m["default"] else "")
        for m in found
    ]
    write_table(("MODEL", "KIND", "ENGINE", "CONTEXT", "LICENCE", ""), rows)


def chat(
    prompt: Annotated[str, typer.Argument(help="What to say to the model; `-` reads it from standard input.")],
    model: Annotated[str, typer.Option(help="Which model; by default the platform's.", show_default=False)] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say something to a model, and show its answer as it comes."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise InvalidRequest("there is nothing to say: give a prompt, or `-` and text on standard input")
    api = Api.of(data_dir)
    chosen = model or next(m["id"] for m in api.get("/api/v1/models")["models"] if m["default"] and m["kind"] == "CHAT")
    body: dict[str, Any] = {
        "model": chosen,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
    }
    if as_json:
        write_json(api.post("/v1/chat/completions", body))
        return
    for event in api.events("POST", "/v1/chat/completions", body | {"stream": True}):
        for choice in event["choices"]:
            sys.stdout.write(choice["delta"].get("content") or "")
            sys.stdout.flush()
    write("")
