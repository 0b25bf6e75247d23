"""Indexing throughput of many small files, relative to the encoder alone: `python -m bench.indexing FILE`.

FILE is a corpus in the BEIR format (JSON lines with `title` and `text`); each of its first lines becomes a text file.
The files are uploaded, then attached as one batch. The measurement starts with the batch and ends when the last file
is parsed, chunked, embedded and stored. The encoder alone gets the same texts in batches of 64. Both run in turn,
several times; the benchmark prints the median of the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from bench.retrieval import PRINCIPAL, database, run_services
from drw.api.rag.v1.documents_pb2 import WatchIndexingRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.kernel.rpc.context import acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.chunking.chunks import Chunker
from drw.rag.documents.chunking.document_context import subject
from drw.rag.documents.service import Documents
from drw.rag.embedding.adapters.onnx import Onnx
from drw.rag.embedding.lengths import LengthPolicy

TEXTS = 64


def main() -> None:
    """Measure, and print one line per round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with arguments.corpus.open(encoding="utf-8") as lines:
        pages = [f"{line['title']}\n\n{line['text']}\n" for line in map(json.loads, islice(lines, arguments.files))]
    with tempfile.TemporaryDirectory(prefix="drw-", dir="/tmp") as folder, database(Path(folder)) as dsn:
        profile = Profile(name="bench", data=Path(folder) / "files", postgres=dsn, valkey="")
        asyncio.run(measure(profile, pages, arguments.rounds))


async def measure(profile: Profile, pages: list[str], rounds: int) -> None:
    """Print texts a second of both, and the ratio."""
    texts = [text for number, page in enumerate(pages) for text in embedded_texts(f"{number}.txt", page)]
    ratios = []
    async with run_services(profile, {}, "documents", "embedding", "vector_store") as host:
        encoder = Onnx(Onnx.Settings(folder=profile.data / "embedding-model"))
        encode(encoder, texts[:TEXTS])  # the first call is slower
        for number in range(rounds):
            encoder_rate = len(texts) / await asyncio.to_thread(encode, encoder, texts)
            indexing_rate = len(texts) / await index(host, f"round-{number}", pages)
            ratios.append(indexing_rate / encoder_rate)
            rates = f"encoder {encoder_rate:.1f}/s, indexed {indexing_rate:.1f}/s"
            print(f"{len(texts)} texts: {rates}, ratio {ratios[-1]:.2f}")
    print(f"median ratio {median(ratios):.2f}")


def embedded_texts(name: str, page: str) -> list[str]:
    """Return the texts of a file as indexing embeds them."""
    return [f"{chunk.context}\n{chunk.text}" for chunk in Chunker(subject(name, page)).page(1, page)]


def encode(encoder: Onnx, texts: list[str]) -> float:
    """Encode texts with the encoder alone; return the seconds."""
    started_at = time.perf_counter()
    for start in range(0, len(texts), TEXTS):
        for batch in encoder.tokenize(texts[start : start + TEXTS], LengthPolicy(average=True)):
            encoder.encode(batch)
    return time.perf_counter() - started_at


async def index(host: Host, collection: str, pages: list[str]) -> float:
    """Upload files, then index them as one batch; return the seconds from the batch to its end."""
    documents = host._servicers["documents"]
    assert isinstance(documents, Documents)
    with acting_for(PRINCIPAL):
        created = await documents._library.get_or_create_collection(collection)
        files: list[tuple[str, dict[str, Any]]] = []
        for number, page in enumerate(pages):
            with documents._blobs.receiving() as incoming:
                incoming.write(f"{page}\n{collection}".encode())
                file = await documents._contents.store(incoming, f"{number}.txt", "assistants")
                files.append((file.id, {}))
        started_at = time.perf_counter()
        await documents._library.attach_batch(created, files)
        async for _ in host.client(DocumentsClient).watch_indexing(WatchIndexingRequest(collection=created.id)):
            pass
        return time.perf_counter() - started_at


if __name__ == "__main__":
    main()
