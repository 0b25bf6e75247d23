"""`drw batches`: run the requests of a file in the background."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, warn, write, write_json, write_table

batches = typer.Typer(help="Run the requests of a file in the background, within 24 hours.", no_args_is_help=True)
BatchId = Annotated[str, typer.Argument(help="Batch id.")]


def add_to(app: typer.Typer, section: str) -> None:
    """Register the commands."""
    app.add_typer(batches, name="batches", rich_help_panel=section)


@batches.command("create")
def create_batch(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JSONL file with one request per line.")],
    endpoint: Annotated[
        str, typer.Option(help="Endpoint of all requests, such as /v1/embeddings.")
    ] = "/v1/chat/completions",
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeatable.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Upload a file and create a batch of its requests."""
    pairs = dict(_pair(text) for text in metadata or ())
    api = Api.of(data_dir)
    uploaded = api.upload("/v1/files", file, purpose="batch")
    request = {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": "24h", "metadata": pairs}
    batch = api.post("/v1/batches", request)
    write_json(batch) if as_json else write(
        f"{batch['id']} is {batch['status']}; `drw batches show` shows its progress"
    )


@batches.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the desk's batches."""
    data = Api.of(data_dir).get("/v1/batches", limit=limit)["data"]
    if as_json:
        write_json(data)
        return
    rows = [(b["id"], b["status"], _progress(b), b["endpoint"], _format_seconds(b["created_at"])) for b in data]
    write_table(("BATCH", "STATUS", "REQUESTS", "ENDPOINT", "CREATED"), rows, "no batches")


@batches.command("show")
def show_batch(batch: BatchId, data_dir: DataDir = None) -> None:
    """Show a batch: progress, files, errors of its input."""
    write_json(Api.of(data_dir).get(f"/v1/batches/{batch}"))


@batches.command("cancel")
def cancel_batch(batch: BatchId, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Cancel a batch. Requests that run now finish; the results so far are kept."""
    cancelled = Api.of(data_dir).post(f"/v1/batches/{batch}/cancel")
    write_json(cancelled) if as_json else write(f"{batch} is {cancelled['status']}")


@batches.command("download")
def download_results(
    batch: BatchId,
    folder: Annotated[Path, typer.Option("--to", file_okay=False, help="Folder for the files.")] = Path(),
    data_dir: DataDir = None,
) -> None:
    """Download the output file and the error file of a batch that has ended."""
    api = Api.of(data_dir)
    shown = api.get(f"/v1/batches/{batch}")
    files = {kind: shown[f"{kind}_file_id"] for kind in ("output", "error") if shown[f"{kind}_file_id"]}
    if not files:
        warn(f"{batch} is {shown['status']} and has no files")
        raise typer.Exit(1)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, file in files.items():
        path = folder / f"{shown['id']}_{kind}.jsonl"
        api.download(f"/v1/files/{file}/content", path)
        write(str(path))


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


def _progress(batch: dict[str, Any]) -> str:
    counts = batch["request_counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['completed'] + counts['failed']} of {counts['total']}{failed}"


def _format_seconds(seconds: int) -> str:
    return format_time(datetime.fromtimestamp(seconds, UTC).isoformat())
