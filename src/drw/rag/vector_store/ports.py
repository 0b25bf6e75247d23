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
"""Automatic filters: for each key of the metadata the values that a document may have."""


@dataclass(frozen=True, slots=True)
class KeywordScores:
    """The BM25 scores of the chunks that have any of a question's terms: one entry a chunk in each array."""

    positions: npt.NDArray[np.int64]
    """Ascending: the key of the document in the upper 32 bits, the number of the chunk in the lower."""
    scores: npt.NDArray[np.float64]
    bound: float
    """The score of a chunk that has every term of the question as often as can count."""

    def best(self, limit: int) -> list[PassagePosition]:
        """Return the positions of the best chunks, best first."""
        top = np.argsort(-self.scores, kind="stable")[:limit]
        return [PassagePosition(int(position) >> 32, int(position) & 0xFFFFFFFF) for position in self.positions[top]]

    def at(self, positions: Sequence[PassagePosition]) -> dict[PassagePosition, float]:
        """Return the scores of chunks, those that have none left out."""
        packed = np.array([(position.document << 32) | position.number for position in positions], dtype=np.int64)
        where = np.minimum(np.searchsorted(self.positions, packed), max(0, len(self.positions) - 1))
        has = self.positions[where] == packed if len(self.positions) else np.zeros(len(packed), bool)
        return {
            position: float(self.scores[n])
            for position, n, is_there in zip(positions, where, has, strict=True)
            if is_there
        }


@dataclass(frozen=True, slots=True)
class DocumentMetadata:
    """The metadata of a document, for automatic filters."""

    subject: Sequence[str]
    """The terms by which a question can name the document, each as `key:term`."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AnalysedText:
    """The result of `analysis`: what the index stores of a document."""

    counts: Sequence[Mapping[str, int]]
    """The term counts of each chunk, in the order of the chunks."""
    about: DocumentMetadata


class Snapshot(ABC):
    """A consistent view of the documents of a collection that the caller may see."""

    @abstractmethod
    async def values(self, key: str, terms: Sequence[str], filters: Filters) -> list[str]:
        """Return the values of a metadata key that the terms name, over documents that match the filters."""

    @abstractmethod
    async def newest(self, filters: Filters) -> list[str]:
        """Return the newest period of each company, over documents that match the filters."""

    @abstractmethod
    async def narrowed(self, filters: Filters) -> Snapshot:
        """Return the part of the snapshot that matches the filters."""

    @abstractmethod
    async def by_words(self, terms: Sequence[str]) -> KeywordScores:
        """Return the chunks that contain any of the terms, with BM25 scores."""

    @abstractmethod
    async def by_vector(
        self, vector: Sequence[float], positions: Sequence[PassagePosition], limit: int
    ) -> dict[PassagePosition, float]:
        """Return the nearest chunks by inner product, and the inner products of the chunks at the positions."""

    @abstractmethod
    async def passages(self, positions: Sequence[PassagePosition]) -> dict[PassagePosition, Passage]:
        """Return the text of chunks with the data of their documents."""


class PassageIndex(ABC):
    """Stores collections. Each method sees only those of the owner, by id or name.

    For every method, objects with a wall that the owner is outside of do not exist: not in lists, counts, taken names,
    searches, or the statistics that rank results.

    Every method raises `CollectionNotFound` where it names a collection that the owner does not have.
    """

    @abstractmethod
    async def start(self, scope: ServiceContext) -> None:
        """Connect to the database. Called once, before any other method."""

    @abstractmethod
    async def describe(self) -> str:
        """Return the detail line of the status.

        Raises:
            Unavailable: it does not answer.
        """

    @abstractmethod
    async def create_collection(
        self, owner: Owner, name: str, metadata: Mapping[str, str], walls: Sequence[str]
    ) -> Collection:
        """Create a collection with these walls.

        Raises:
            CollectionExists: the name is taken.
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
            CollectionExists: the name is taken.
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
        analysed: AnalysedText,
        fence: int = 0,
    ) -> Document:
        """Write a document in place of the one with its id and walls; it also gets the walls of the collection.

        Raises:
            DocumentSuperseded: `fence` is not 0, and the stored document, or a deletion of it, has a higher one.
        """

    @abstractmethod
    async def update_attributes(
        self,
        owner: Owner,
        collection: str,
        document: Document,
        source: str,
        about: Callable[..., DocumentMetadata],
        fence: int = 0,
    ) -> Document:
        """Replace the attributes of a document and its metadata from `about(document, chunks)`; return the document.

        Where it is not there, a copy of the document `source` with the same walls is made for it. A version that is
        not newer than the one that is kept changes nothing.

        Raises:
            DocumentNotFound: neither is there, or the document was deleted with a higher fence than the copy's.
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
        """Delete a document with these walls and a lower fence; return how many chunks it had, 0 if there is none.

        Later writes with a lower fence are rejected: a delayed one would bring the document back.
        """

    @abstractmethod
    def snapshot(
        self, owner: Owner, collection: str, condition: Filter | None
    ) -> AbstractAsyncContextManager[Snapshot]:
        """Open a snapshot of the documents that match a filter."""
