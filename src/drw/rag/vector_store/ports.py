"""Port of vector databases: collections of a desk, and snapshots to search in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drw.api.rag.v1.vector_store_pb2 import Chunk, Collection, Document, Passage
from drw.kernel.attribute_filters import Filter
from drw.kernel.errors import Conflict, NotFound
from drw.kernel.runtime.host import ServiceContext


class CollectionNotFound(NotFound):
    """The desk has no collection of this id or name."""


class DocumentNotFound(NotFound):
    """The collection has no document of this id."""


class DocumentSuperseded(Conflict):
    """The document was written or deleted with a higher fence."""


class CollectionExists(Conflict):
    """The desk has a collection of this name already."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The desk that owns the collections, and the walls of the caller."""

    org: str
    desk: str
    walls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: its size, and the token of the entry before it."""

    size: int
    token: str = ""


@dataclass(frozen=True, slots=True)
class PassagePosition:
    """The position of a chunk: its document and number. Valid within one index."""

    document: int
    number: int


Filters = Mapping[str, Sequence[str]]
"""Automatic filters: the accepted values of each metadata key."""


@dataclass(frozen=True, slots=True)
class KeywordScores:
    """BM25 scores of the chunks that contain any term of a question; each array has one entry for each chunk."""

    positions: npt.NDArray[np.int64]
    """Ascending: the key of the document in the upper 32 bits, the number of the chunk in the lower."""
    scores: npt.NDArray[np.float64]
    upper_bound: float
    """The highest possible score: of a chunk in which every term of the question has its maximum weight."""

    def top(self, limit: int) -> list[PassagePosition]:
        """Return the positions of the best chunks, best first."""
        best = np.argsort(-self.scores, kind="stable")[:limit]
        return [PassagePosition(int(position) >> 32, int(position) & 0xFFFFFFFF) for position in self.positions[best]]

    def of(self, positions: Sequence[PassagePosition]) -> dict[PassagePosition, float]:
        """Return the scores of the chunks at these positions; chunks without a score are missing."""
        packed = np.array([(position.document << 32) | position.number for position in positions], dtype=np.int64)
        indexes = np.minimum(np.searchsorted(self.positions, packed), max(0, len(self.positions) - 1))
        is_scored = self.positions[indexes] == packed if len(self.positions) else np.zeros(len(packed), bool)
        return {
            position: float(self.scores[n])
            for position, n, scored in zip(positions, indexes, is_scored, strict=True)
            if scored
        }


@dataclass(frozen=True, slots=True)
class DocumentMetadata:
    """The metadata of a document, for automatic filters."""

    subject: Sequence[str]
    """The terms by which a question can name the document, each as `key:term`."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DocumentAnalysis:
    """The result of the analysis of a document, which the index stores."""

    counts: Sequence[Mapping[str, int]]
    """The term counts of each chunk, in the order of the chunks."""
    metadata: DocumentMetadata


class Snapshot(ABC):
    """A consistent view of the documents of a collection that the caller may see."""

    @abstractmethod
    async def metadata_values(self, key: str, terms: Sequence[str], filters: Filters) -> list[str]:
        """Return the values of a metadata key that the terms name, over documents that match the filters."""

    @abstractmethod
    async def newest_periods(self, filters: Filters) -> list[str]:
        """Return the newest period of each company, over documents that match the filters."""

    @abstractmethod
    async def narrow(self, filters: Filters) -> Snapshot:
        """Return the part of the snapshot that matches the filters."""

    @abstractmethod
    async def keyword_search(self, terms: Sequence[str]) -> KeywordScores:
        """Return the chunks that contain any of the terms, with BM25 scores."""

    @abstractmethod
    async def vector_search(
        self, vector: Sequence[float], positions: Sequence[PassagePosition], limit: int
    ) -> dict[PassagePosition, float]:
        """Return the nearest chunks by inner product, and the inner products of the chunks at the positions."""

    @abstractmethod
    async def passages(self, positions: Sequence[PassagePosition]) -> dict[PassagePosition, Passage]:
        """Return the text of chunks with the data of their documents."""


class PassageIndex(ABC):
    """Stores collections. Each method sees only those of the owner, by id or name.

    Objects with a wall that the owner is outside of are invisible: in lists, counts, name conflicts, searches, and the
    statistics that rank results.

    Every method with a collection raises `CollectionNotFound` if the owner has no such collection.
    """

    @abstractmethod
    async def start(self, scope: ServiceContext) -> None:
        """Connect to the database. Called once, before any other method."""

    @abstractmethod
    async def describe(self) -> str:
        """Return the detail line of the status.

        Raises:
            Unavailable: the database does not answer.
        """

    @abstractmethod
    async def create_collection(
        self, owner: Owner, name: str, metadata: Mapping[str, str], walls: Sequence[str]
    ) -> Collection:
        """Create a collection with these walls.

        Raises:
            CollectionExists: the desk has a collection of this name.
        """

    @abstractmethod
    async def list_collections(self, owner: Owner, page: Page) -> tuple[list[Collection], str]:
        """Return a page of the collections, oldest first, and the token of the next page."""

    @abstractmethod
    async def get_collection(self, owner: Owner, collection: str) -> Collection: ...

    @abstractmethod
    async def update_collection(
        self, owner: Owner, collection: str, name: str, metadata: Mapping[str, str]
    ) -> Collection:
        """Change the name and the metadata, if given.

        Raises:
            CollectionExists: the desk has a collection of this name.
        """

    @abstractmethod
    async def delete_collection(self, owner: Owner, collection: str) -> int:
        """Delete a collection with all documents that the owner may see; return their number.

        Documents that the owner may not see stay, with the collection, for callers inside their walls.
        """

    @abstractmethod
    async def put_document(
        self,
        owner: Owner,
        collection: str,
        document: Document,
        chunks: Sequence[Chunk],
        analysis: DocumentAnalysis,
        fence: int = 0,
    ) -> Document:
        """Write a document, replacing one with the same id and walls; it also gets the walls of the collection.

        Raises:
            DocumentSuperseded: `fence` is not 0, and the stored document, or a deletion of it, has a higher one.
        """

    @abstractmethod
    async def update_attributes(
        self,
        owner: Owner,
        collection: str,
        document: Document,
        copy_from: str,
        extract_metadata: Callable[..., DocumentMetadata],
        fence: int = 0,
    ) -> Document:
        """Replace the attributes of a document and its metadata from `extract_metadata(document, chunks)`; return it.

        If it does not exist, it becomes a copy of the document `copy_from` with the same walls. A version that is not
        newer than the stored one changes nothing.

        Raises:
            DocumentNotFound: neither exists, or the document was deleted with a higher fence than the copy's.
        """

    @abstractmethod
    async def list_documents(self, owner: Owner, collection: str, page: Page) -> tuple[list[Document], str]:
        """Return a page of the documents in order of writing, and the token of the next page."""

    @abstractmethod
    async def delete_document(self, owner: Owner, collection: str, document: str) -> int:
        """Delete a document with all its rows; return its number of chunks.

        Raises:
            DocumentNotFound: the collection has no such document.
        """

    @abstractmethod
    async def delete_fenced(
        self, owner: Owner, collection: str, document: str, walls: Sequence[str], fence: int
    ) -> int:
        """Delete a document with these walls and a lower fence; return its number of chunks, 0 if there is none.

        Later writes with a lower fence are rejected: a delayed one would bring the document back.
        """

    @abstractmethod
    def snapshot(
        self, owner: Owner, collection: str, condition: Filter | None
    ) -> AbstractAsyncContextManager[Snapshot]:
        """Open a snapshot of the documents that match a filter."""
