"""Ingestion: uploads new files, follows the indexing, reports failures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drw.cli.api import Api
from drw.cli.terminal import console
from drw.kernel.errors import InvalidRequest, NotFound, TooLarge


@dataclass
class Result:
    """Result of an ingestion."""

    collection: str
    indexed: int = 0
    unchanged: int = 0
    pages: int = 0
    chunks: int = 0
    seconds: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """Parts of files that could not be read or stored."""

    def summary(self) -> str:
        """Return a one-line summary."""
        speed = f"{self.chunks / self.seconds:.0f} chunks/s" if self.indexed and self.seconds else ""
        counts = f"{self.indexed} indexed ({self.pages} pages, {self.chunks} chunks), {self.unchanged} there already"
        return f"{self.collection}: {counts}, {len(self.failed)} failed; {self.seconds:.1f} s  {speed}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        failed = [{"file": name, "error": reason} for name, reason in self.failed]
        warnings = [{"file": name, "warning": warning} for name, warning in self.warnings]
        return {**self.__dict__, "seconds": round(self.seconds, 2), "failed": failed, "warnings": warnings}


class Ingestion:
    """One ingestion of files into a collection."""

    def __init__(
        self, api: Api, collection: str, walls: Sequence[str] = (), *, quiet: bool, password: str = ""
    ) -> None:
        self._api = api
        self._walls = list(walls)
        self._name = collection
        self._fields = {"purpose": "assistants"} | ({"password": password} if password else {})
        self._result = Result(collection)
        self._uploaded: dict[str, str] = {}
        from rich import progress

        self._progress = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[counts]}"),
            progress.TimeElapsedColumn(),
            console=console(),
            disable=quiet,
            transient=True,
        )

    def run(self, files: list[Path]) -> Result:
        """Ingest the files; return when each is indexed or has failed."""
        started_at = time.monotonic()
        collection = self._collection()
        documents = self._api.pages(f"{collection}/documents", "documents", limit=100_000)
        existing_hashes = {d["content_hash"] for d in documents if set(self._walls) <= set(d["walls"])}
        with self._progress:
            bar = self._progress.add_task("uploading", total=len(files), counts="")
            for file in files:
                self._upload(file, collection, existing_hashes)
                self._progress.advance(bar)
            if self._uploaded:
                self._follow_indexing(collection)
        self._result.seconds = time.monotonic() - started_at
        return self._result

    def _collection(self) -> str:
        try:
            response = self._api.get(f"/api/v1/collections/{self._name}")
        except NotFound:
            response = self._api.post("/api/v1/collections", {"name": self._name, "walls": self._walls})
        self._id = response["id"]
        return f"/api/v1/collections/{self._id}"

    def _upload(self, file: Path, collection: str, existing_hashes: set[str]) -> None:
        content_hash = _content_hash(file)
        if content_hash in existing_hashes:
            self._result.unchanged += 1
            return
        existing_hashes.add(content_hash)
        try:
            form = {"walls": " ".join(self._walls)} if self._walls else {}
            uploaded = self._api.upload("/v1/files", file, **self._fields, **form)
            self._warn(file.name, uploaded)
            body = {"file_id": uploaded["id"], "walls": self._walls}
            self._api.post(f"/v1/vector_stores/{self._id}/files", body)
            self._uploaded[uploaded["id"]] = file.name
        except (InvalidRequest, TooLarge) as error:
            self._result.failed.append((file.name, error.message))

    def _follow_indexing(self, collection: str) -> None:
        bar = self._progress.add_task("indexing", total=len(self._uploaded), counts="")
        started_at, first = time.monotonic(), None
        for event in self._api.events("GET", f"{collection}/indexing"):
            first = first or event
            done = event["completed"] + event["failed"]
            chunks = event["chunks"] - first["chunks"]
            speed = chunks / (time.monotonic() - started_at + 1e-9)
            counts = f"{event['pages']} pages, {event['chunks']} chunks, {speed:.0f} chunks/s, {event['failed']} failed"
            self._progress.update(bar, completed=min(len(self._uploaded), done), counts=counts)
        for file_id, name in self._uploaded.items():
            self._record_outcome(name, self._api.get(f"/v1/vector_stores/{self._id}/files/{file_id}"))
        documents = {d["id"]: d for d in self._api.pages(f"{collection}/documents", "documents", limit=100_000)}
        for file_id in self._uploaded.keys() & documents.keys():
            self._result.pages += documents[file_id]["pages"]
            self._result.chunks += documents[file_id]["chunks"]

    def _record_outcome(self, name: str, file: dict[str, Any]) -> None:
        self._warn(name, file)
        if file["status"] == "completed":
            self._result.indexed += 1
        else:
            reason = (file.get("last_error") or {}).get("message") or f"it is {file['status']}"
            self._result.failed.append((name, reason))

    def _warn(self, name: str, file: dict[str, Any]) -> None:
        self._result.warnings += [(name, warning) for warning in file.get("warnings", ())]


def _content_hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
