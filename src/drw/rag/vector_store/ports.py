"""What the vector store needs of a database: collections that a desk owns, and snapshots to search in."""

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
    """The desk whose collections are meant, and the walls inside which its key stands."""

    org: str
    desk: str
    walls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: so many entries, after the one that the token names."""

    size: int
    token: str = ""


@dataclass(frozen=True, slots=True)
class PassagePosition:
    """Which chunk of which document; the keys hold within one index."""

    document: int
    number: int


Filters = Mapping[str, Sequence[str]]
"""Automatic filters: for each key of the metadata the values that a document may have."""


@dataclass(frozen=True, slots=True)
class KeywordScores:
    """The BM25 scores of the chunks that have any of a question's terms: one entry a chunk in each array."""

    places: npt.NDArray[np.int64]
    """Ascending: the key of the document in the upper 32 bits, the number of the chunk in the lower."""
    scores: npt.NDArray[np.float64]
    bound: float
    """The score of a chunk that has every term of the question as often as can count."""

    def best(self, limit: int) -> list[PassagePosition]:
        """Return the places of the best chunks, best first."""
        top = np.argsort(-self.scores, kind="stable")[:limit]
        return [PassagePosition(int(place) >> 32, int(place) & 0xFFFFFFFF) for place in self.places[top]]

    def at(self, places: Sequence[PassagePosition]) -> dict[PassagePosition, float]:
        """Return the scores of chunks, those that have none left out."""
        packed = np.array([(place.document << 32) | place.number for place in places], dtype=np.int64)
        where = np.minimum(np.searchsorted(self.places, packed), max(0, len(self.places) - 1))
        has = self.places[where] == packed if len(self.places) else np.zeros(len(packed), bool)
        return {place: float(self.scores[n]) for place, n, is_there in zip(places, where, has, strict=True) if is_there}


@dataclass(frozen=True, slots=True)
class DocumentMetadata:
    """What automatic filters look up of a document as a whole."""

    subject: Sequence[str]
    """The terms by which a question can name the document, each as `key:term`."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AnalysedText:
    """A document as the index keeps it: what `analysis` made of its words."""

    counts: Sequence[Mapping[str, int]]
    """How often each term stands in each chunk, in the order of the chunks."""
    about: DocumentMetadata


class Snapshot(ABC):
    """One unchanging view of the documents of a collection that the caller may see: nothing else counts in it."""

    @abstractmethod
    async def values(self, key: str, terms: Sequence[str], filters: Filters) -> list[str]:
        """Return the values of a metadata key that the terms name, over documents that have what the filters ask."""

    @abstractmethod
    async def newest(self, filters: Filters) -> list[str]:
        """Return the newest period of each company, over documents that have what the filters ask."""

    @abstractmethod
    async def narrowed(self, filters: Filters) -> Snapshot:
        """Return the part of the snapshot that the filters take."""

    @abstractmethod
    async def by_words(self, terms: Sequence[str]) -> KeywordScores:
        """Return the chunks that have any of the terms, scored by BM25."""

    @abstractmethod
    async def by_vector(
        self, vector: Sequence[float], places: Sequence[PassagePosition], limit: int
    ) -> dict[PassagePosition, float]:
        """Return the nearest chunks by inner product, and the inner products of the chunks at the places."""

    @abstractmethod
    async def passages(self, places: Sequence[PassagePosition]) -> dict[PassagePosition, Passage]:
        """Return the text of chunks and what is known of their documents."""


class PassageIndex(ABC):
    """Keeps collections; each method sees only those of the owner, and names them by id or name.

    What has a wall that the owner stands outside of is not there, for any method: not in lists, counts, names that are
    taken, searches, and the statistics that those rank by.

    Every method raises `CollectionNotFound` where it names a collection that the owner does not have.
    """

    @abstractmethod
    async def start(self, scope: ServiceContext) -> None:
        """Take what the index needs of its host: called once, before all else."""

    @abstractmethod
    async def describe(self) -> str:
        """Say what keeps the passages, as the status shows it.

        Raises:
            Unavailable: it does not answer.
        """

    @abstractmethod
    async def create_collection(
        self, owner: Owner, name: str, metadata: Mapping[str, str], walls: Sequence[str]
    ) -> Collection:
        """Make a collection inside these walls.

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
        """Change the name, where one is given, and the metadata, where there is any.

        Raises:
            CollectionExists: the name is taken.
        """

    @abstractmethod
    async def delete_collection(self, owner: Owner, collection: str) -> int:
        """Delete a collection with all in it that the owner may see; return how many documents that were.

        What the owner may not see stays, with the collection, for those who may.
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
        """Write a document whole, in place of the one with its id and walls; it gets the collection's walls too.

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
        """Replace the attributes of a document, and what `about(document, chunks)` makes of them; return the document.

        Where it is not there, a copy of the document `source` with the same walls is made for it. A version that is
        not newer than the one that is kept changes nothing.

        Raises:
            DocumentNotFound: neither is there, or the document was deleted with a higher fence than the copy's.
        """

    @abstractmethod
    async def list_documents(self, owner: Owner, collection: str, page: Page) -> tuple[list[Document], str]:
        """Return a page of the documents, in the order of writing, and the token of the next page."""

    @abstractmethod
    async def delete_document(self, owner: Owner, collection: str, document: str) -> int:
        """Delete a document with all that belongs to it, and return how many chunks that were.

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
    def snapshot(self, owner: Owner, collection: str, wanted: Filter | None) -> AbstractAsyncContextManager[Snapshot]:
        """Hold a view of the collection's documents that a filter takes."""
