"""How well questions find their documents: `python -m bench.retrieval DATA [--keep FOLDER]`.

DATA holds sets in BEIR's layout: `sec10q` (PDFs, questions, the right documents) and `tatqa` (passages, questions,
the right passages). The filings go through the real services on a real PostgreSQL; with `--keep` they are indexed
once and found again in the next run. Settings are chosen on every second question, and reported on the others too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import log2
from pathlib import Path
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
from drw.kernel.call import SCOPES, Caller, acting_for
from drw.kernel.errors import NotFound
from drw.kernel.host import Host
from drw.kernel.settings import Place, Profile
from drw.local import postgres
from drw.rag.embedding import weights

WHO = Caller("bench", "bench", "key_bench", frozenset(SCOPES))
KEYWORDS = {"vector_weight": 0.0, "lift": 0.0}
VECTORS = {"vector_weight": 1.0, "lift": 0.0}
VARIANTS: dict[str, dict[str, float]] = {
    "keywords alone": KEYWORDS,
    "vectors alone": VECTORS,
    **{f"fused, weight {w}": {"vector_weight": w, "lift": 0.0} for w in (0.3, 0.4, 0.5, 0.7)},
    **{f"weight 0.4, lift {lift}": {"vector_weight": 0.4, "lift": lift} for lift in (0.5, 1.0, 3.0)},
    "as shipped": {},
}
LOOKED_UP = ("What were Apple's total net sales in the quarter ended July 1, 2023?", "2023 Q3 AAPL", "81,797")


@dataclass(frozen=True)
class Questions:
    """The questions of a set, their vectors, and what is right for each."""

    texts: Sequence[str]
    vectors: Sequence[Vector]
    right: Sequence[frozenset[str]]


def main() -> None:
    """Index what is not indexed yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder with a short path for the database")
    parser.add_argument("--variants", type=json.loads, default=VARIANTS, help="JSON: name to settings")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drw-", dir="/tmp") as folder, database(asked.keep or Path(folder)) as dsn:
        profile = Profile(name="bench", data=(asked.keep or Path(folder)) / "files", postgres=dsn, valkey="")
        asyncio.run(measure(profile, asked.data, asked.variants))


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


async def measure(profile: Profile, data: Path, variants: Mapping[str, Mapping[str, float]]) -> None:
    """Index, then print one line a variant."""
    async with hosted(profile, {}, "documents", "embedding", "vector_store") as host:
        filed = await index_filings(host, data / "sec10q")
        await index_passages(host, data / "tatqa")
        filings = await questions(host, data / "sec10q", "docs.tsv")
        passages = await questions(host, data / "tatqa", "dev.tsv", every=4)
        asked = await questions_of(host, [LOOKED_UP[0]], [frozenset([LOOKED_UP[1]])])
        await print_writing(host, data / "sec10q")
    print(
        f"\n{len(filings.texts)} questions on {len(filed)} filings, {len(passages.texts)} on passages;"
        " the half that settings are chosen on / the other"
    )
    print(f"{'':24}{'nDCG@5':>16}{'hit@1':>16}{'nDCG@10 tatqa':>18}{'p50':>8}{'p99':>8} ms   rank of the figure")
    for name, settings in variants.items():
        async with hosted(profile, settings, "vector_store") as host:
            await print_variant(host, name, filings, passages, asked)


@asynccontextmanager
async def hosted(profile: Profile, ranking: Mapping[str, float], *services: str) -> AsyncIterator[Host]:
    """Run services with these settings of the vector store."""
    weights.prepare(profile.data / "embedding-model", print)
    encoder = {"encoder": "onnx", "onnx": {"folder": str(profile.data / "embedding-model")}}
    sections = {"vector_store": dict(ranking), "embedding": encoder}
    gateway = Place(services=("request_router",), grpc="unix:/nothing", http="")  # nothing is killed here
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


async def questions(host: Host, folder: Path, judged: str, every: int = 1) -> Questions:
    """Read the questions of a set that have judgements: all, or one in `every`."""
    right = defaultdict(set)
    for row in (folder / "qrels" / judged).read_text().splitlines()[1:]:
        question, passage, _ = row.split("\t")
        right[question].add(passage)
    found = [line for line in lines(folder / "queries.jsonl") if line["_id"] in right][::every]
    return await questions_of(host, [q["text"] for q in found], [frozenset(right[q["_id"]]) for q in found])


async def questions_of(host: Host, texts: list[str], right: Sequence[frozenset[str]]) -> Questions:
    """Return questions with their vectors."""
    return Questions(texts, await embed(host, texts), right)


async def embed(host: Host, texts: list[str]) -> list[Vector]:
    """Return the vectors of texts."""
    client = host.client(EmbeddingClient)
    found: list[Vector] = []
    for start in range(0, len(texts), 128):
        found += (await client.embed(EmbedRequest(texts=texts[start : start + 128]), timeout=600)).vectors
    return found


async def print_variant(host: Host, name: str, filings: Questions, passages: Questions, asked: Questions) -> None:
    """Search with one setting, and print what it finds."""
    store = host.client(VectorStoreClient)
    took: list[float] = []
    documents = [
        once(p.title.removesuffix(".pdf") for p in found) for found in await answers(store, "sec10q", filings, 50, [])
    ]
    gains = halves([ndcg(d, r, 5) for d, r in zip(documents, filings.right, strict=True)])
    hits = halves([float(bool(d) and d[0] in r) for d, r in zip(documents, filings.right, strict=True)])
    named = [
        [p.attributes[f"p{p.chunk}"].string_value for p in found]
        for found in await answers(store, "tatqa", passages, 10, [])
    ]
    tatqa = halves([ndcg(p, r, 10) for p, r in zip(named, passages.right, strict=True)])
    (figure,) = await answers(store, "sec10q", asked, 50, [])
    await answers(store, "sec10q", filings, 10, took)
    rank = next((n for n, p in enumerate(figure, 1) if LOOKED_UP[2] in p.text and p.title.startswith(LOOKED_UP[1])), 0)
    print(
        f"{name:24}{gains:>16}{hits:>16}{tatqa:>18}{share(took, 0.5):8.1f}{share(took, 0.99):8.1f}      {rank}",
        flush=True,
    )


async def answers(
    store: VectorStoreClient, collection: str, asked: Questions, limit: int, took: list[float]
) -> list[Sequence[Passage]]:
    """Return the passages that each question finds, and note how long each search took, in ms."""
    found: list[Sequence[Passage]] = []
    for text, vector in zip(asked.texts, asked.vectors, strict=True):
        begin = time.perf_counter()
        wanted = VectorSearchRequest(collection=collection, text=text, vector=vector, limit=limit)
        found.append((await store.search(wanted)).passages)
        took.append(1e3 * (time.perf_counter() - begin))
    return found


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


def ndcg(ranked: Sequence[str], right: frozenset[str], depth: int) -> float:
    """Return the normalised discounted cumulative gain at a depth, all that is right being equally so."""
    gain = sum(1 / log2(n + 2) for n, found in enumerate(ranked[:depth]) if found in right)
    return gain / sum(1 / log2(n + 2) for n in range(min(depth, len(right))))


def halves(values: Sequence[float]) -> str:
    """Return the mean of every second value, and of the others."""
    return f"{fmean(values[::2]):.3f} / {fmean(values[1::2]):.3f}"


def share(values: Sequence[float], part: float) -> float:
    """Return the value under which this part of the values lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def once(values: Iterator[str]) -> list[str]:
    """Return each value where it first comes."""
    return list(dict.fromkeys(values))


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines."""
    with file.open(encoding="utf-8") as text:
        yield from map(json.loads, text)


if __name__ == "__main__":
    main()
