"""Retrieval quality (nDCG) on public question sets: `python -m bench.retrieval DATA [--keep FOLDER]`.

DATA (or the variable DRW_BENCH_DATA) contains sets in the BEIR format: `scifact` (abstracts, claims), `tatqa` (tables
and paragraphs, questions) and `sec10q` (PDFs, questions, relevant documents). All use the real chunking, embedding,
PostgreSQL and search. With `--keep` the index is reused by the next run. The command exits with 1 if the shipped
settings are more than 0.01 worse on a set than its best single setting.
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

PRINCIPAL = Principal("bench", "bench", "key_bench", frozenset(SCOPES))
WEIGHTS = (0.1, 0.2, 0.3, 0.5)


def _same_ranking(fusion: str, weight: float) -> dict[str, Any]:
    """Return the same ranking for searches with and without automatic filters."""
    return {
        "fusion": fusion,
        "vector_weight": weight,
        "narrowed_fusion": fusion,
        "narrowed_vector_weight": weight,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "BM25 alone": _same_ranking("coverage", 0.0),
    "vectors alone": _same_ranking("coverage", 1.0),
    **{f"min-max, weight {w}": _same_ranking("min-max", w) for w in (0.3, 0.5, 0.7)},
    "RRF": _same_ranking("rrf", 0.5),
    **{f"coverage, weight {w}": _same_ranking("coverage", w) for w in WEIGHTS},
}
TOLERANCE = 0.01
FIGURE = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+)(?![\d,]*\d)")
FIGURE_DIGITS = 3
"""Figures with fewer digits occur on too many pages to identify the page of an answer."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one collection, with their vectors and scoring functions."""

    name: str
    collection: str
    limit: int
    texts: Sequence[str]
    vectors: Sequence[Vector]
    scorers: Sequence[Callable[[Sequence[Passage]], float]]


def main() -> None:
    """Index missing documents, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("DRW_BENCH_DATA"))
    parser.add_argument("--keep", type=Path, help="a folder with a short path for the database")
    parser.add_argument("--variants", type=json.loads, default=VARIANTS, help="JSON: name to settings")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder of the sets, or set DRW_BENCH_DATA")
    with (
        tempfile.TemporaryDirectory(prefix="drw-", dir="/tmp") as folder,
        database(arguments.keep or Path(folder)) as dsn,
    ):
        profile = Profile(name="bench", data=(arguments.keep or Path(folder)) / "files", postgres=dsn, valkey="")
        if regressions := asyncio.run(measure(profile, arguments.data, arguments.variants)):
            sys.exit("\n".join(regressions))


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
    """Return the name of the database, created if missing."""
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
    """Index, print one line per variant, and return the sets on which another variant beats the shipped settings."""
    async with run_services(profile, {}, "documents", "embedding", "vector_store") as host:
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
        f"{'':24}"
        + "".join(f"{f'{question_set.name} ({len(question_set.texts)})':>26}" for question_set in sets)
        + f"{'p50':>8}{'p99':>8} ms"
    )
    means: dict[str, list[float]] = {}
    for name, settings in variants.items():
        async with run_services(profile, settings, "vector_store") as host:
            means[name] = await print_variant(host, name, sets)
    return regressions(means, [question_set.name for question_set in sets])


def regressions(means: Mapping[str, Sequence[float]], sets: Sequence[str]) -> list[str]:
    """Return a line for each set on which a variant beats the first one by more than the tolerance."""
    (shipped, shipped_means), *_ = means.items()
    messages = []
    for number, name in enumerate(sets):
        best = max(means, key=lambda variant: means[variant][number])
        if means[best][number] - shipped_means[number] > TOLERANCE:
            messages.append(f"{name}: {shipped} {shipped_means[number]:.3f}, {best} {means[best][number]:.3f}")
    return messages


@asynccontextmanager
async def run_services(profile: Profile, ranking: Mapping[str, Any], *services: str) -> AsyncIterator[Host]:
    """Run services with these ranking settings of the vector store."""
    weights.prepare(profile.data / "embedding-model", print)
    encoder = {"encoder": "onnx", "onnx": {"folder": str(profile.data / "embedding-model")}}
    sections = {"vector_store": dict(ranking), "embedding": encoder}
    gateway = ServiceAddress(services=("request_router",), grpc="unix:/nothing", http="")  # no kill switch here
    changes = {"services": sections, "processes": {"gateway": gateway}}
    host = Host(profile.model_copy(update=changes), "bench", services)
    try:
        await host.start()
        with acting_for(PRINCIPAL):
            yield host
    finally:
        await host.stop(grace=0)


async def index_filings(host: Host, folder: Path) -> list[str]:
    """Ingest the PDFs with the documents service, and return their names."""
    documents, there = host.client(DocumentsClient), await titles(host)
    files = sorted((folder / "pdfs").glob("*.pdf"))
    started_at = time.monotonic()
    for file in (file for file in files if file.name not in there):
        file_record = await documents.put_file(PutFileRequest(name=file.name, content=file.read_bytes()), timeout=600)
        done = await documents.index_file(IndexFileRequest(file=file_record.id, collection="sec10q"), timeout=1800)
        print(
            f"{file.name}: {done.pages} pages, {done.chunks} chunks, "
            f"{time.monotonic() - started_at:.0f} s {done.error}",
            flush=True,
        )
    return [file.stem for file in files]


async def titles(host: Host) -> set[str]:
    """Return the titles of the indexed filings."""
    try:
        response = await host.client(VectorStoreClient).list_documents(ListDocumentsRequest(collection="sec10q"))
    except NotFound:
        return set()
    return {document.title for document in response.documents}


async def index_passages(host: Host, folder: Path) -> None:
    """Store the table and the paragraphs of each report as one document, one chunk each."""
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
        document = Document(id=report, attributes=to_values(names))
        await store.put_document(PutDocumentRequest(collection="tatqa", document=document, chunks=chunks))
        if number % 50 == 0:
            print(f"tatqa: {number} of {len(reports)} reports", flush=True)


async def index_abstracts(host: Host, folder: Path) -> None:
    """Store each abstract as a text document with title and paragraph, chunked like any document."""
    store = host.client(VectorStoreClient)
    if "scifact" in {c.name for c in (await store.list_collections(ListCollectionsRequest())).collections}:
        return
    await store.create_collection(CreateCollectionRequest(name="scifact"))
    for number, line in enumerate(lines(folder / "corpus.jsonl")):
        name, text = f"{line['_id']}.txt", f"{line['title']}\n\n{line['text']}\n"
        chunks_of_text = list(Chunker(subject(name, text)).page(1, text))
        vectors = await embed(host, [f"{chunk.context}\n{chunk.text}" for chunk in chunks_of_text])
        chunks = [
            Chunk(number=n, page=1, start=c.start, end=c.end, text=c.text, context=c.context, vector=vector)
            for n, (c, vector) in enumerate(zip(chunks_of_text, vectors, strict=True))
        ]
        document = Document(id=line["_id"], title=name, pages=1)
        await store.put_document(PutDocumentRequest(collection="scifact", document=document, chunks=chunks))
        if number % 500 == 0:
            print(f"scifact: {number} abstracts", flush=True)


async def scifact(host: Host, folder: Path) -> QuestionSet:
    """Return the claims of SciFact, scored by document."""
    questions = [(line["text"], relevant) for line, relevant in load_questions(folder, "train.tsv")]
    scorers = [partial(score_documents, relevant=relevant, depth=10) for _, relevant in questions]
    return await question_set(host, "SciFact", "scifact", 50, [text for text, _ in questions], scorers)


async def tatqa(host: Host, folder: Path) -> QuestionSet:
    """Return every fourth question of TAT-QA, scored by passage."""
    questions = [(line["text"], relevant) for line, relevant in load_questions(folder, "dev.tsv")][::4]
    scorers = [partial(score_passages, relevant=relevant) for _, relevant in questions]
    return await question_set(host, "TAT-QA", "tatqa", 10, [text for text, _ in questions], scorers)


async def filings(host: Host, folder: Path) -> list[QuestionSet]:
    """Return the questions on filings, scored by document; and those with figures in the answer, scored by page."""
    questions = load_questions(folder, "docs.tsv")
    documents = [partial(score_documents, relevant=relevant, depth=5) for _, relevant in questions]
    pages = [(line["_id"].partition("#p"), line["text"]) for line in lines(folder / "corpus.jsonl")]
    texts, scorers = [], []
    for line, relevant in questions:
        answer_figures = distinctive_figures(line["metadata"]["answer"])
        on = {
            (at[0], int(at[2]) + 1)
            for at, text in pages
            if at[0] in relevant and answer_figures & distinctive_figures(text)
        }
        if on:
            texts.append(line["text"])
            scorers.append(partial(score_pages, relevant=frozenset(on), answer_figures=answer_figures))
    all_texts = [line["text"] for line, _ in questions]
    return [
        await question_set(host, "filings by document", "sec10q", 50, all_texts, documents),
        await question_set(host, "filings by page", "sec10q", 10, texts, scorers),
    ]


def score_documents(passages: Sequence[Passage], *, relevant: frozenset[str], depth: int) -> float:
    """Score the documents of passages, each at its first passage."""
    return ndcg(unique(PurePath(passage.title).stem for passage in passages), relevant, depth)


def score_passages(passages: Sequence[Passage], *, relevant: frozenset[str]) -> float:
    """Score passages by the ids that `index_passages` stored."""
    return ndcg([passage.attributes[f"p{passage.chunk}"].string_value for passage in passages], relevant, 10)


def score_pages(
    passages: Sequence[Passage], *, relevant: frozenset[tuple[str, int]], answer_figures: frozenset[str]
) -> float:
    """Score pages: a page is relevant if its passage contains a figure of the answer."""
    pages = unique(
        (PurePath(passage.title).stem, passage.page)
        if answer_figures & distinctive_figures(passage.text)
        else (passage.document, -n)
        for n, passage in enumerate(passages, 1)
    )
    return ndcg(pages, relevant, 10)


def distinctive_figures(text: str) -> frozenset[str]:
    """Return the figures of a text that have enough digits to be distinctive."""
    return frozenset(f for f in FIGURE.findall(text) if sum(c.isdigit() for c in f) >= FIGURE_DIGITS)


def load_questions(folder: Path, file: str) -> list[tuple[dict[str, Any], frozenset[str]]]:
    """Return the questions of a set that have relevance judgements, with their relevant ids."""
    relevant = defaultdict(set)
    for row in (folder / "qrels" / file).read_text().splitlines()[1:]:
        question, passage, _ = row.split("\t")
        relevant[question].add(passage)
    questions = lines(folder / "queries.jsonl")
    return [(line, frozenset(relevant[line["_id"]])) for line in questions if line["_id"] in relevant]


async def question_set(
    host: Host,
    name: str,
    collection: str,
    limit: int,
    texts: Sequence[str],
    scorers: Sequence[Callable[[Sequence[Passage]], float]],
) -> QuestionSet:
    """Return questions with their vectors."""
    return QuestionSet(name, collection, limit, texts, await embed(host, list(texts)), scorers)


async def embed(host: Host, texts: list[str]) -> list[Vector]:
    """Return the vectors of texts."""
    client = host.client(EmbeddingClient)
    vectors: list[Vector] = []
    for start in range(0, len(texts), 128):
        vectors += (
            await client.embed(
                EmbedRequest(texts=texts[start : start + 128], long_text=EmbedRequest.AVERAGE), timeout=600
            )
        ).vectors
    return vectors


async def print_variant(host: Host, name: str, sets: Sequence[QuestionSet]) -> list[float]:
    """Search with one variant, print its scores, and return the mean of each set."""
    store = host.client(VectorStoreClient)
    durations_ms: list[float] = []
    scores_of_sets = [await score_questions(store, question_set, durations_ms) for question_set in sets]
    cells = "".join(f"{f'{fmean(scores):.3f} ({split_means(scores)})':>26}" for scores in scores_of_sets)
    print(f"{name:24}{cells}{percentile(durations_ms, 0.5):8.1f}{percentile(durations_ms, 0.99):8.1f}", flush=True)
    return [fmean(scores) for scores in scores_of_sets]


async def score_questions(
    store: VectorStoreClient, question_set: QuestionSet, durations_ms: list[float]
) -> list[float]:
    """Return the score of each question, and append the duration of each search in ms."""
    scores = []
    for text, vector, score in zip(question_set.texts, question_set.vectors, question_set.scorers, strict=True):
        started_at = time.perf_counter()
        request = VectorSearchRequest(
            collection=question_set.collection, text=text, vector=vector, limit=question_set.limit
        )
        passages = (await store.search(request)).passages
        durations_ms.append(1e3 * (time.perf_counter() - started_at))
        scores.append(score(passages))
    return scores


async def print_writing(host: Host, folder: Path) -> None:
    """Print how long it takes to replace one filing of 60 pages."""
    texts = [line["text"] for line in lines(folder / "corpus.jsonl")]
    texts = [text[at : at + 700] for text in texts[:60] for at in range(0, len(text), 700)]
    vectors = await embed(host, [text[:60] or "x" for text in texts])
    chunks = [
        Chunk(number=n, page=1 + n // 5, end=len(text), text=text, vector=vector)
        for n, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    store, durations_ms = host.client(VectorStoreClient), []
    for _ in range(4):
        started_at = time.perf_counter()
        document = Document(id="written-again", title="filing.pdf", pages=60)
        await store.put_document(PutDocumentRequest(collection="sec10q", document=document, chunks=chunks))
        durations_ms.append(1e3 * (time.perf_counter() - started_at))
    await store.delete_document(DeleteDocumentRequest(collection="sec10q", document="written-again"))
    print(f"writing {len(chunks)} chunks: {', '.join(f'{t:.0f}' for t in durations_ms)} ms")


def ndcg(ranked: Sequence[Any], relevant: frozenset[Any], depth: int) -> float:
    """Return the normalised discounted cumulative gain at a depth, with binary relevance."""
    gain = sum(1 / log2(n + 2) for n, item in enumerate(ranked[:depth]) if item in relevant)
    return gain / sum(1 / log2(n + 2) for n in range(min(depth, len(relevant))))


def split_means(values: Sequence[float]) -> str:
    """Return the means of the even and the odd values."""
    return f"{fmean(values[::2]):.3f} / {fmean(values[1::2]):.3f}"


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value at this quantile, by nearest rank."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def unique(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values, in order of first occurrence."""
    return list(dict.fromkeys(values))


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines."""
    with file.open(encoding="utf-8") as text:
        yield from map(json.loads, text)


if __name__ == "__main__":
    main()
