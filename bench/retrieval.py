"""How well questions find their documents: `python -m bench.retrieval DATA [--keep FOLDER]`.

DATA (or the variable DRW_BENCH_DATA) holds sets in BEIR's layout: `scifact` (abstracts, claims), `tatqa` (tables and
paragraphs, questions) and `sec10q` (PDFs, questions, the right documents). All go through the real chunking,
embedding, PostgreSQL and search; with `--keep` they are indexed once and found again in the next run. The command
ends with 1 where a set falls more than 0.01 below its best single setting as shipped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from math import log2
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any

import psycopg

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, PutFileRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, Vector
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_pb2 import (
    Chunk,
    CreateCollectionRequest,
    DeleteDocumentRequest,
    Document,
    ListCollectionsRequest,
    ListDocumentsRequest,
    Passage,
    PutDocumentRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.local import postgres
from drw.rag.documents.chunking.chunks import Chunker
from drw.rag.documents.chunking.document_context import subject
from drw.rag.embedding import weights

WHO = Principal("bench", "bench", "key_bench", frozenset(SCOPES))
SWEPT = (0.1, 0.2, 0.3, 0.5)


def _alike(fusion: str, weight: float) -> dict[str, Any]:
    """Return one setting for all searches, whether automatic filters have narrowed them or not."""
    return {
        "fusion": fusion,
        "vector_weight": weight,
        "narrowed_fusion": fusion,
        "narrowed_vector_weight": weight,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "BM25 alone": _alike("coverage", 0.0),
    "vectors alone": _alike("coverage", 1.0),
    **{f"min-max, weight {w}": _alike("min-max", w) for w in (0.3, 0.5, 0.7)},
    "RRF": _alike("rrf", 0.5),
    **{f"coverage, weight {w}": _alike("coverage", w) for w in SWEPT},
}
TOLERANCE = 0.01
FIGURE = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+)(?![\d,]*\d)")
FIGURE_DIGITS = 3
"""What has fewer digits stands on too many pages to say that one of them has the answer."""


@dataclass(frozen=True)
class Measured:
    """The questions of a set in one collection, their vectors, and how what they find is judged."""

    name: str
    collection: str
    limit: int
    texts: Sequence[str]
    vectors: Sequence[Vector]
    judges: Sequence[Callable[[Sequence[Passage]], float]]


def main() -> None:
    """Index what is not indexed yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("DRW_BENCH_DATA"))
    parser.add_argument("--keep", type=Path, help="a folder with a short path for the database")
    parser.add_argument("--variants", type=json.loads, default=VARIANTS, help="JSON: name to settings")
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the folder of the sets, or set DRW_BENCH_DATA")
    with tempfile.TemporaryDirectory(prefix="drw-", dir="/tmp") as folder, database(asked.keep or Path(folder)) as dsn:
        profile = Profile(name="bench", data=(asked.keep or Path(folder)) / "files", postgres=dsn, valkey="")
        if worse := asyncio.run(measure(profile, asked.data, asked.variants)):
            sys.exit("\n".join(worse))


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """Run PostgreSQL with its files in the folder."""
    data, sockets = folder / "pg", folder / "s"
    folder.mkdir(parents=True, exist_ok=True)
    postgres.prepare(data, sockets)
    with (folder / "pg.log").open("ab") as log:
        server = subprocess.Popen(postgres.command(data, sockets), stdout=log, stderr=log)
    try:
        yield postgres.dsn(sockets, wait_for_database(sockets))
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        server.wait(30)


def wait_for_database(sockets: Path) -> str:
    """Return the name of the database, made where there is none."""
    for _ in range(300):
        try:
            with psycopg.connect(postgres.dsn(sockets, "postgres"), autocommit=True) as connection:
                if not connection.execute("select 1 from pg_database where datname = 'bench'").fetchone():
                    connection.execute("create database bench")
                return "bench"
        except psycopg.OperationalError:
            time.sleep(0.1)
    sys.exit("PostgreSQL did not start")


async def measure(profile: Profile, data: Path, variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Index, print one line a variant, and return which sets do worse as shipped than with another setting."""
    async with hosted(profile, {}, "documents", "embedding", "vector_store") as host:
        await index_filings(host, data / "sec10q")
        await index_passages(host, data / "tatqa")
        await index_abstracts(host, data / "scifact")
        sets = [
            await scifact(host, data / "scifact"),
            await tatqa(host, data / "tatqa"),
            *await filings(host, data / "sec10q"),
        ]
        await print_writing(host, data / "sec10q")
    print("\nthe mean, and that of every second question / of the others; nDCG@10, of the filings' documents nDCG@5")
    print(
        f"{'':24}" + "".join(f"{f'{each.name} ({len(each.texts)})':>26}" for each in sets) + f"{'p50':>8}{'p99':>8} ms"
    )
    means: dict[str, list[float]] = {}
    for name, settings in variants.items():
        async with hosted(profile, settings, "vector_store") as host:
            means[name] = await print_variant(host, name, sets)
    return worse(means, [each.name for each in sets])


def worse(means: Mapping[str, Sequence[float]], sets: Sequence[str]) -> list[str]:
    """Return a line for each set that another variant than the first is better at by more than the tolerance."""
    (shipped, own), *_ = means.items()
    found = []
    for number, name in enumerate(sets):
        best = max(means, key=lambda variant: means[variant][number])
        if means[best][number] - own[number] > TOLERANCE:
            found.append(f"{name}: {shipped} {own[number]:.3f}, {best} {means[best][number]:.3f}")
    return found


@asynccontextmanager
async def hosted(profile: Profile, ranking: Mapping[str, Any], *services: str) -> AsyncIterator[Host]:
    """Run services with these settings of the vector store."""
    weights.prepare(profile.data / "embedding-model", print)
    encoder = {"encoder": "onnx", "onnx": {"folder": str(profile.data / "embedding-model")}}
    sections = {"vector_store": dict(ranking), "embedding": encoder}
    gateway = ServiceAddress(services=("request_router",), grpc="unix:/nothing", http="")  # nothing is killed here
    own = {"services": sections, "processes": {"gateway": gateway}}
    host = Host(profile.model_copy(update=own), "bench", services)
    try:
        await host.start()
        with acting_for(WHO):
            yield host
    finally:
        await host.stop(grace=0)


async def index_filings(host: Host, folder: Path) -> list[str]:
    """Put the PDFs through documents, and return their names."""
    documents, there = host.client(DocumentsClient), await titles(host)
    files = sorted((folder / "pdfs").glob("*.pdf"))
    begin = time.monotonic()
    for file in (file for file in files if file.name not in there):
        kept = await documents.put_file(PutFileRequest(name=file.name, content=file.read_bytes()), timeout=600)
        done = await documents.index_file(IndexFileRequest(file=kept.id, collection="sec10q"), timeout=1800)
        print(
            f"{file.name}: {done.pages} pages, {done.chunks} chunks, {time.monotonic() - begin:.0f} s {done.error}",
            flush=True,
        )
    return [file.stem for file in files]


async def titles(host: Host) -> set[str]:
    """Return the titles of the filings that are indexed."""
    try:
        found = await host.client(VectorStoreClient).list_documents(ListDocumentsRequest(collection="sec10q"))
    except NotFound:
        return set()
    return {document.title for document in found.documents}


async def index_passages(host: Host, folder: Path) -> None:
    """Write each report's table and paragraphs as one document, a chunk each."""
    store = host.client(VectorStoreClient)
    if "tatqa" in {c.name for c in (await store.list_collections(ListCollectionsRequest())).collections}:
        return
    await store.create_collection(CreateCollectionRequest(name="tatqa"))
    reports = defaultdict(list)
    for line in lines(folder / "corpus.jsonl"):
        reports[line["_id"].partition("/")[0]].append(line)
    for number, (report, parts) in enumerate(reports.items()):
        vectors = await embed(host, [part["text"] for part in parts])
        chunks = [
            Chunk(number=n, page=n + 1, end=len(part["text"]), text=part["text"], vector=vector)
            for n, (part, vector) in enumerate(zip(parts, vectors, strict=True))
        ]
        names = {f"p{n}": part["_id"] for n, part in enumerate(parts)}
        about = Document(id=report, attributes=to_values(names))
        await store.put_document(PutDocumentRequest(collection="tatqa", document=about, chunks=chunks))
        if number % 50 == 0:
            print(f"tatqa: {number} of {len(reports)} reports", flush=True)


async def index_abstracts(host: Host, folder: Path) -> None:
    """Write each abstract as a text file of a title and a paragraph, cut as documents are."""
    store = host.client(VectorStoreClient)
    if "scifact" in {c.name for c in (await store.list_collections(ListCollectionsRequest())).collections}:
        return
    await store.create_collection(CreateCollectionRequest(name="scifact"))
    for number, line in enumerate(lines(folder / "corpus.jsonl")):
        name, text = f"{line['_id']}.txt", f"{line['title']}\n\n{line['text']}\n"
        cut = list(Chunker(subject(name, text)).page(1, text))
        vectors = await embed(host, [f"{chunk.context}\n{chunk.text}" for chunk in cut])
        chunks = [
            Chunk(number=n, page=1, start=c.start, end=c.end, text=c.text, context=c.context, vector=vector)
            for n, (c, vector) in enumerate(zip(cut, vectors, strict=True))
        ]
        about = Document(id=line["_id"], title=name, pages=1)
        await store.put_document(PutDocumentRequest(collection="scifact", document=about, chunks=chunks))
        if number % 500 == 0:
            print(f"scifact: {number} abstracts", flush=True)


async def scifact(host: Host, folder: Path) -> Measured:
    """Return the claims: a document is as good as its best passage."""
    found = [(line["text"], right) for line, right in judged(folder, "train.tsv")]
    judges = [partial(by_document, right=right, depth=10) for _, right in found]
    return await measured(host, "SciFact", "scifact", 50, [text for text, _ in found], judges)


async def tatqa(host: Host, folder: Path) -> Measured:
    """Return one in four of the questions on tables and paragraphs."""
    found = [(line["text"], right) for line, right in judged(folder, "dev.tsv")][::4]
    judges = [partial(by_passage, right=right) for _, right in found]
    return await measured(host, "TAT-QA", "tatqa", 10, [text for text, _ in found], judges)


async def filings(host: Host, folder: Path) -> list[Measured]:
    """Return the questions on filings, judged by document, and those with figures in their answer by page."""
    found = judged(folder, "docs.tsv")
    documents = [partial(by_document, right=right, depth=5) for _, right in found]
    pages = [(line["_id"].partition("#p"), line["text"]) for line in lines(folder / "corpus.jsonl")]
    texts, judges = [], []
    for line, right in found:
        sought = figures(line["metadata"]["answer"])
        on = {(at[0], int(at[2]) + 1) for at, text in pages if at[0] in right and sought & figures(text)}
        if on:
            texts.append(line["text"])
            judges.append(partial(by_page, right=frozenset(on), sought=sought))
    every = [line["text"] for line, _ in found]
    return [
        await measured(host, "filings by document", "sec10q", 50, every, documents),
        await measured(host, "filings by page", "sec10q", 10, texts, judges),
    ]


def by_document(found: Sequence[Passage], *, right: frozenset[str], depth: int) -> float:
    """Judge the documents of passages, each by its first."""
    return ndcg(once(PurePath(passage.title).stem for passage in found), right, depth)


def by_passage(found: Sequence[Passage], *, right: frozenset[str]) -> float:
    """Judge passages by the ids that `index_passages` gave them."""
    return ndcg([passage.attributes[f"p{passage.chunk}"].string_value for passage in found], right, 10)


def by_page(found: Sequence[Passage], *, right: frozenset[tuple[str, int]], sought: frozenset[str]) -> float:
    """Judge pages: one is right where the passage found holds a figure of the answer."""
    seen = once(
        (PurePath(passage.title).stem, passage.page) if sought & figures(passage.text) else (passage.document, -n)
        for n, passage in enumerate(found, 1)
    )
    return ndcg(seen, right, 10)


def figures(text: str) -> frozenset[str]:
    """Return the figures of a text that have enough digits to tell one place from others."""
    return frozenset(f for f in FIGURE.findall(text) if sum(c.isdigit() for c in f) >= FIGURE_DIGITS)


def judged(folder: Path, file: str) -> list[tuple[dict[str, Any], frozenset[str]]]:
    """Return the questions of a set that have judgements, with what is right for each."""
    right = defaultdict(set)
    for row in (folder / "qrels" / file).read_text().splitlines()[1:]:
        question, passage, _ = row.split("\t")
        right[question].add(passage)
    found = lines(folder / "queries.jsonl")
    return [(line, frozenset(right[line["_id"]])) for line in found if line["_id"] in right]


async def measured(
    host: Host,
    name: str,
    collection: str,
    limit: int,
    texts: Sequence[str],
    judges: Sequence[Callable[[Sequence[Passage]], float]],
) -> Measured:
    """Return questions with their vectors."""
    return Measured(name, collection, limit, texts, await embed(host, list(texts)), judges)


async def embed(host: Host, texts: list[str]) -> list[Vector]:
    """Return the vectors of texts."""
    client = host.client(EmbeddingClient)
    found: list[Vector] = []
    for start in range(0, len(texts), 128):
        found += (
            await client.embed(
                EmbedRequest(texts=texts[start : start + 128], long_text=EmbedRequest.AVERAGE), timeout=600
            )
        ).vectors
    return found


async def print_variant(host: Host, name: str, sets: Sequence[Measured]) -> list[float]:
    """Search with one setting, print what it finds, and return the mean of each set."""
    store = host.client(VectorStoreClient)
    took: list[float] = []
    values = [await judgements(store, each, took) for each in sets]
    cells = "".join(f"{f'{fmean(each):.3f} ({halves(each)})':>26}" for each in values)
    print(f"{name:24}{cells}{share(took, 0.5):8.1f}{share(took, 0.99):8.1f}", flush=True)
    return [fmean(each) for each in values]


async def judgements(store: VectorStoreClient, each: Measured, took: list[float]) -> list[float]:
    """Return how well each question of a set does, and note how long each search took, in ms."""
    values = []
    for text, vector, judge in zip(each.texts, each.vectors, each.judges, strict=True):
        begin = time.perf_counter()
        wanted = VectorSearchRequest(collection=each.collection, text=text, vector=vector, limit=each.limit)
        found = (await store.search(wanted)).passages
        took.append(1e3 * (time.perf_counter() - begin))
        values.append(judge(found))
    return values


async def print_writing(host: Host, folder: Path) -> None:
    """Print how long it takes to write one filing of 60 pages over itself."""
    texts = [line["text"] for line in lines(folder / "corpus.jsonl")]
    texts = [text[at : at + 700] for text in texts[:60] for at in range(0, len(text), 700)]
    vectors = await embed(host, [text[:60] or "x" for text in texts])
    chunks = [
        Chunk(number=n, page=1 + n // 5, end=len(text), text=text, vector=vector)
        for n, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    store, took = host.client(VectorStoreClient), []
    for _ in range(4):
        begin = time.perf_counter()
        about = Document(id="written-again", title="filing.pdf", pages=60)
        await store.put_document(PutDocumentRequest(collection="sec10q", document=about, chunks=chunks))
        took.append(1e3 * (time.perf_counter() - begin))
    await store.delete_document(DeleteDocumentRequest(collection="sec10q", document="written-again"))
    print(f"writing {len(chunks)} chunks: {', '.join(f'{t:.0f}' for t in took)} ms")


def ndcg(ranked: Sequence[Any], right: frozenset[Any], depth: int) -> float:
    """Return the normalised discounted cumulative gain at a depth, all that is right being equally so."""
    gain = sum(1 / log2(n + 2) for n, found in enumerate(ranked[:depth]) if found in right)
    return gain / sum(1 / log2(n + 2) for n in range(min(depth, len(right))))


def halves(values: Sequence[float]) -> str:
    """Return the mean of every second value, and of the others."""
    return f"{fmean(values[::2]):.3f} / {fmean(values[1::2]):.3f}"


def share(values: Sequence[float], part: float) -> float:
    """Return the value under which this part of the values lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def once(values: Iterable[Any]) -> list[Any]:
    """Return each value where it first comes."""
    return list(dict.fromkeys(values))


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines."""
    with file.open(encoding="utf-8") as text:
        yield from map(json.loads, text)


if __name__ == "__main__":
    main()
