"""`drw ingest`, `ask`, `search`, `collections`: documents and what they answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from drw.cli.api import Api
from drw.cli.ingest import Ingestion
from drw.cli.options import DataDir, Json, console, warn, when, write, write_json, write_line, write_table
from drw.kernel.errors import InvalidRequest

Collection = Annotated[str, typer.Option("--collection", "-c", help="The collection, by name or id.")]

collections = typer.Typer(help="See and delete collections and their documents.", no_args_is_help=True)

AutoFilters = Annotated[
    bool, typer.Option(help="Narrow the search to the company, document type and period that the question names.")
]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    for command in (ingest, ask, search):
        app.command(rich_help_panel=panel)(command)
    app.add_typer(collections, name="collections", rich_help_panel=panel)


def ingest(
    path: Annotated[Path, typer.Argument(help="A file, or a folder with everything in it.", show_default=False)],
    collection: Collection = "default",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put documents into a collection. Safe to repeat, and to interrupt and repeat: what is in stays in."""
    files = files_of(path)
    try:
        result = Ingestion(Api.of(data_dir), collection, quiet=as_json).run(files)
    except KeyboardInterrupt:
        warn("stopped: what is uploaded is indexed all the same; the same command again takes the rest")
        raise
    if as_json:
        write_json(result.as_json())
    else:
        write(result.summary())
        if result.failed:
            write_table(("FAILED", "WHY"), result.failed)
    if result.failed:
        raise typer.Exit(1)


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.", show_default=False)],
    collection: Collection = "default",
    model: Annotated[str, typer.Option(help="Which model words the answer; by default the platform's.")] = "",
    passages: Annotated[int, typer.Option(min=1, max=20, help="How many passages to answer from.")] = 4,
    auto_filters: AutoFilters = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Answer a question from a collection: the passages first, then the answer with citations and its checks."""
    body = {"question": question, "model": model, "limit": passages, "auto_filters": auto_filters}
    answer: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for event in Api.of(data_dir).events("POST", f"/api/v1/collections/{collection}:ask", body):
        if "sources" in event:
            found = event["sources"]
            if not as_json:
                _show_found(found)
                console.print("\n[bold]Answer[/bold]")
        elif "text" in event and not as_json:
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        elif "answer" in event:
            answer = event["answer"]
    if as_json:
        write_json({**found, "answer": answer})
    else:
        _show_checks(answer)


def search(
    question: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    collection: Collection = "default",
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many passages.")] = 8,
    auto_filters: AutoFilters = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Find the passages nearest to a question, without an answer."""
    body = {"question": question, "limit": limit, "auto_filters": auto_filters}
    found = Api.of(data_dir).post(f"/api/v1/collections/{collection}:search", body)
    if as_json:
        write_json(found["passages"])
    else:
        _show_found(found)


@collections.command("list")
def list_collections(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the desk's collections."""
    found = Api.of(data_dir).pages("/api/v1/collections", "collections")
    if as_json:
        write_json(found)
        return
    rows = [(c["name"], c["id"], c["documents"], c["chunks"], when(c.get("created_at"))) for c in found]
    write_table(("NAME", "ID", "DOCUMENTS", "CHUNKS", "CREATED"), rows, "no collections: make one with `drw ingest`")


@collections.command("show")
def show_collection(
    collection: Annotated[str, typer.Argument(help="By name or id.")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List the documents of a collection."""
    found = Api.of(data_dir).pages(f"/api/v1/collections/{collection}/documents", "documents")
    if as_json:
        write_json(found)
        return
    rows = [(d["title"], d["id"], d["pages"], d["chunks"], when(d.get("indexed_at"))) for d in found]
    write_table(("DOCUMENT", "ID", "PAGES", "CHUNKS", "INDEXED"), rows, "no documents")


@collections.command("delete")
def delete_collection(
    collection: Annotated[str, typer.Argument(help="By name or id.")],
    document: Annotated[str, typer.Option(help="Delete only this document, by its id.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a collection with all its documents, or one document of it."""
    what = f"the document {document} of {collection}" if document else f"the collection {collection} and all in it"
    if not yes:
        typer.confirm(f"Delete {what}?", abort=True)
    api = Api.of(data_dir)
    store = api.get(f"/api/v1/collections/{collection}")["id"]
    done = api.delete(f"/v1/vector_stores/{store}" + (f"/files/{document}" if document else ""))
    if as_json:
        write_line(done)
    else:
        write(f"deleted {what}")


def files_of(path: Path) -> list[Path]:
    """Return a file, or every file of a folder but hidden ones, in order.

    Raises:
        InvalidRequest: there is nothing at the path.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidRequest(f"there is no file or folder {str(path)!r}")
    found = sorted(
        f for f in path.rglob("*") if f.is_file() and not any(p.startswith(".") for p in f.relative_to(path).parts)
    )
    if not found:
        raise InvalidRequest(f"the folder {str(path)!r} has no files in it")
    return found


def _show_found(found: dict[str, Any]) -> None:
    passages = found["passages"]
    for narrowed in found.get("applied_filters", ()):
        write(f"only {narrowed['key']} {', '.join(narrowed['values'])} (--no-auto-filters searches everything)")
    if not passages:
        write("no passage fits the question")
    for number, p in enumerate(passages, 1):
        console.print(
            f"[bold][{number}] {escape(p['title'])}, page {p['page']}[/bold]  [dim]score {p['score']:.2f}[/dim]"
        )
        text = " ".join(p["text"].split())
        write(f"    {text[:400]}{'…' if len(text) > 400 else ''}")


def _show_checks(answer: dict[str, Any]) -> None:
    console.print("\n")
    if reason := answer.get("incomplete"):
        warn(f"The answer is incomplete: {reason}")
    for citation in answer.get("citations", ()):
        p = citation["passage"]
        console.print(f"[bold][{citation['number']}][/bold] {escape(p['title'])}, page {p['page']}", end=": ")
        write(f"“{' '.join(citation['quote'].split())}”")
    for figure in answer.get("unsupported_figures", ()):
        console.print(f"[bold red]✗ {escape(figure['figure'])}[/bold red] stands in no cited passage")
    if not answer.get("supported"):
        console.print("[yellow]Read the passages: this answer is not supported by what it cites.[/yellow]")
