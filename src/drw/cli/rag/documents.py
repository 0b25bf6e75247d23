"""`drw ingest`, `ask`, `search`, `collections`: index documents and query them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.escaping import visible
from drw.cli.options import DataDir, Json, Walls, format_time, warn, write, write_json, write_line, write_table
from drw.cli.rag import filters
from drw.cli.rag.files import files
from drw.cli.rag.filters import SYNTAX
from drw.cli.rag.ingest import Ingestion
from drw.cli.terminal import console, stream
from drw.kernel.errors import InvalidRequest

Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", "-f", help="Attribute filter, for example 'year>=2023'; repeatable. " + SYNTAX),
]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Collection, by name or id.")]

collections = typer.Typer(help="List and delete collections and their documents.", no_args_is_help=True)

AutoFilters = Annotated[
    bool | None,
    typer.Option(
        "--auto-filters/--no-auto-filters",
        help="Narrow the search to the company, document type and period that the question names. Default: narrow.",
        show_default=False,
    ),
]
ScoreThreshold = Annotated[
    float, typer.Option(min=0, max=1, help="Only passages with this score or a higher one.", show_default=False)
]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    for command in (ingest, ask, search):
        app.command(rich_help_panel=panel)(command)
    app.add_typer(collections, name="collections", rich_help_panel=panel)
    app.add_typer(files, name="files", rich_help_panel=panel)


def ingest(
    path: Annotated[Path, typer.Argument(help="File or folder (recursive).", show_default=False)],
    collection: Collection = "default",
    wall: Walls = None,
    password: Annotated[
        bool, typer.Option("--password", help="Prompt for the password of encrypted files, or set DRW_FILE_PASSWORD.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Index documents into a collection. Idempotent: repeat it after an interruption."""
    files = files_of(path)
    # Not an option value, which would show in the shell history and the process list.
    secret = typer.prompt("Password", hide_input=True) if password else os.environ.get("DRW_FILE_PASSWORD", "")
    try:
        uploads = Ingestion(Api.of(data_dir), collection, wall or [], password=secret, quiet=as_json)
        result = uploads.run(files)
    except KeyboardInterrupt:
        warn("interrupted: uploaded files are still indexed; repeat the command for the rest")
        raise
    if as_json:
        write_json(result.as_json())
    else:
        write(result.summary())
        if result.failed:
            write_table(("FAILED", "WHY"), result.failed)
        if result.warnings:
            write_table(("WARNING", "WHAT"), result.warnings)
    if result.failed:
        raise typer.Exit(1)


def ask(
    question: Annotated[str, typer.Argument(help="Question.", show_default=False)],
    collection: Collection = "default",
    model: Annotated[
        str,
        typer.Option(
            help="Model that writes the answer. Default: the platform's default model.",
            autocompletion=completion.models,
        ),
    ] = "",
    passages: Annotated[
        int | None, typer.Option(min=1, max=20, help="Maximum number of passages. Default: 4.", show_default=False)
    ] = None,
    score_threshold: ScoreThreshold = 0.0,
    filter_texts: Filters = None,
    auto_filters: AutoFilters = None,
    user: Annotated[
        str, typer.Option(help="User for whom you ask: a unit of experiments of the model's alias.", show_default=False)
    ] = "",
    session: Annotated[str, typer.Option(help="Session, likewise.", show_default=False)] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Answer a question from a collection: passages, then the answer with citations and checks."""
    body = {
        "question": question,
        "model": model,
        "limit": passages,
        "score_threshold": score_threshold,
        "filter": filters.parse_filters(filter_texts),
        "auto_filters": auto_filters,  # null: not set, so that the arm of an experiment can set it
        "user": user,
        "session": session,
    }
    answer: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for event in Api.of(data_dir).events("POST", f"/api/v1/collections/{collection}:ask", body):
        if "sources" in event:
            sources = event["sources"]
            if not as_json:
                _print_passages(sources)
                console().print("\n[bold]Answer[/bold]")
        elif "text" in event and not as_json:
            stream(event["text"])
        elif "answer" in event:
            answer = event["answer"]
    if as_json:
        write_json({**sources, "answer": answer})
    else:
        _print_checks(answer)


def search(
    question: Annotated[str, typer.Argument(help="Query.", show_default=False)],
    collection: Collection = "default",
    limit: Annotated[int, typer.Option(min=1, max=50, help="Maximum number of passages.")] = 8,
    score_threshold: ScoreThreshold = 0.0,
    filter_texts: Filters = None,
    auto_filters: AutoFilters = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Search a collection without generating an answer."""
    body = {
        "question": question,
        "limit": limit,
        "score_threshold": score_threshold,
        "filter": filters.parse_filters(filter_texts),
        "auto_filters": auto_filters,
    }
    response = Api.of(data_dir).post(f"/api/v1/collections/{collection}:search", body)
    if as_json:
        write_json(response["passages"])
    else:
        _print_passages(response)


@collections.command("list")
def list_collections(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the desk's collections."""
    records = Api.of(data_dir).pages("/api/v1/collections", "collections")
    if as_json:
        write_json(records)
        return
    rows = [
        (c["name"], c["id"], c["documents"], c["chunks"], format_time(c.get("created_at")), " ".join(c["walls"]))
        for c in records
    ]
    write_table(
        ("NAME", "ID", "DOCUMENTS", "CHUNKS", "CREATED", "WALLS"), rows, "no collections: make one with `drw ingest`"
    )


@collections.command("show")
def show_collection(
    collection: Annotated[str, typer.Argument(help="Collection, by name or id.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the documents of a collection."""
    documents = Api.of(data_dir).pages(f"/api/v1/collections/{collection}/documents", "documents")
    if as_json:
        write_json(documents)
        return
    rows = [
        (d["title"], d["id"], d["pages"], d["chunks"], format_time(d.get("indexed_at")), " ".join(d["walls"]))
        for d in documents
    ]
    write_table(("DOCUMENT", "ID", "PAGES", "CHUNKS", "INDEXED", "WALLS"), rows, "no documents")


@collections.command("update")
def update_document(
    collection: Annotated[str, typer.Argument(help="Collection, by name or id.")],
    document: Annotated[str, typer.Argument(help="Document id.")],
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", help="KEY=VALUE, for example year=2025; repeatable. Without any, all attributes are removed."
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Replace the attributes of a document. Searches use them at once, without re-indexing."""
    api = Api.of(data_dir)
    store = api.get(f"/api/v1/collections/{collection}")["id"]
    body = {"attributes": filters.parse_attributes(attribute or [])}
    response = api.post(f"/v1/vector_stores/{store}/files/{document}", body)
    if as_json:
        write_json(response)
    else:
        write(f"{document}: {response['attributes']}")


@collections.command("delete")
def delete_collection(
    collection: Annotated[str, typer.Argument(help="Collection, by name or id.")],
    document: Annotated[str, typer.Option(help="Delete only this document (id).")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a collection with all its documents, or one document."""
    label = f"the document {document} of {collection}" if document else f"the collection {collection} and all in it"
    if not yes:
        typer.confirm(visible(f"Delete {label}?"), abort=True)
    api = Api.of(data_dir)
    store = api.get(f"/api/v1/collections/{collection}")["id"]
    response = api.delete(f"/v1/vector_stores/{store}" + (f"/files/{document}" if document else ""))
    if as_json:
        write_line(response)
    else:
        write(f"deleted {label}")


def files_of(path: Path) -> list[Path]:
    """Return a file, or all regular, not hidden files of a folder in order.

    Symbolic links inside the folder are followed only if their target is inside it; others are skipped with a
    warning. A path that is itself a link is followed.

    Raises:
        InvalidRequest: the path does not exist.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidRequest(f"there is no file or folder {str(path)!r}")
    root = path.resolve()
    files = []
    for file in sorted(path.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        target = Path(os.path.realpath(file))  # `resolve` raises on a loop of links
        if not target.is_relative_to(root):
            warn(f"skipped: {str(file)!r} links to {str(target)!r}, outside the folder")
        elif any(part.startswith(".") for part in target.relative_to(root).parts):
            warn(f"skipped: {str(file)!r} links to a hidden file")
        elif target.is_file():
            files.append(file)
    if not files:
        raise InvalidRequest(f"the folder {str(path)!r} has no files in it")
    return files


def _print_passages(response: dict[str, Any]) -> None:
    from rich.markup import escape

    passages = response["passages"]
    for applied in response.get("applied_filters", ()):
        write(f"only {applied['key']} {', '.join(applied['values'])} (--no-auto-filters searches everything)")
    if not passages:
        write("no matching passage")
    for number, passage in enumerate(passages, 1):
        console().print(
            f"[bold][{number}] {escape(passage['title'])}, page {passage['page']}[/bold]"
            f"  [dim]score {passage['score']:.2f}[/dim]"
        )
        text = " ".join(passage["text"].split())
        write(f"    {text[:400]}{'…' if len(text) > 400 else ''}")


def _print_checks(answer: dict[str, Any]) -> None:
    from rich.markup import escape

    console().print("\n")
    if reason := answer.get("incomplete"):
        warn(f"The answer is incomplete: {reason}")
    for citation in answer.get("citations", ()):
        passage = citation["passage"]
        console().print(
            f"[bold][{citation['number']}][/bold] {escape(passage['title'])}, page {passage['page']}", end=": "
        )
        write(f"“{' '.join(citation['quote'].split())}”")
    for figure in answer.get("unsupported_figures", ()):
        console().print(f"[bold red]✗ {escape(figure['figure'])}[/bold red] is not in a cited passage")
    if experiment := answer.get("experiment"):
        write(f"Experiment {experiment}; grade it with `drw experiments feedback {answer['id']} METRIC VALUE`")
    if not answer.get("supported"):
        console().print("[yellow]Read the passages: this answer is not supported by what it cites.[/yellow]")
