"""What the vector store needs of a database: collections that a desk owns, and snapshots to search in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date

from drw.api.rag.v1.vector_store_pb2 import Chunk, Collection, Document, Passage
from drw.kernel.attribute_filters import Filter
from drw.kernel.errors import Conflict, NotFound
from drw.kernel.host import Scope


class CollectionNotFound(NotFound):
    """The desk has no collection of this id or name."""


class DocumentNotFound(NotFound):
    """The collection has no document of this id."""


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
class Place:
    """Which chunk of which document; the keys hold within one index."""

    document: int
    number: int


@dataclass(frozen=True, slots=True)
class Subject:
    """How well a document as a whole fits what the question names."""

    document: int
    score: float
    dated: date | None


@dataclass(frozen=True, slots=True)
class Analysed:
    """A document as the index keeps it: what `analysis` made of its words."""

    counts: Sequence[Mapping[str, int]]
    """How often each term stands in each chunk, in the order of the chunks."""
    subject: Mapping[str, float]
    dated: date | None


@dataclass(frozen=True, slots=True)
class About:
    """What is looked up of a document as a whole: its subject, and the date that tells it from newer ones."""

    subject: Mapping[str, float]
    dated: date | None


class Snapshot(ABC):
    """One unchanging view of the documents of a collection that the caller may see: nothing else counts in it."""

    @abstractmethod
    async def subjects(self, terms: Mapping[str, float]) -> list[Subject]:
        """Return the documents whose subject has any of the terms, which weigh as given, best first."""

    @abstractmethod
    async def by_words(self, terms: Sequence[str], preferred: Sequence[int], limit: int) -> dict[Place, float]:
        """Return the best chunks by BM25, and as many of the preferred documents alone."""

    @abstractmethod
    async def by_vector(self, vector: Sequence[float], preferred: Sequence[int], limit: int) -> dict[Place, float]:
        """Return the nearest chunks by inner product, and as many of the preferred documents alone."""

    @abstractmethod
    async def passages(self, places: Sequence[Place]) -> dict[Place, Passage]:
        """Return the text of chunks and what is known of their documents."""


class PassageIndex(ABC):
    """Keeps collections; each method sees only those of the owner, and names them by id or name.

    What has a wall that the owner stands outside of is not there, for any method: not in lists, counts, names that are
    taken, searches, and the statistics that those rank by.

    Every method raises `CollectionNotFound` where it names a collection that the owner does not have.
    """

    @abstractmethod
    async def start(self, scope: Scope) -> None:
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
        self, owner: Owner, collection: str, document: Document, chunks: Sequence[Chunk], analysed: Analysed
    ) -> Document:
        """Write a document whole, in place of the one with its id and walls; it gets the collection's walls too."""

    @abstractmethod
    async def update_attributes(
        self, owner: Owner, collection: str, document: Document, source: str, about: Callable[..., About]
    ) -> Document:
        """Replace the attributes of a document, and what `about(document, chunks)` makes of them; return the document.

        Where it is not there, a copy of the document `source` with the same walls is made for it. A version that is
        not newer than the one that is kept changes nothing.

        Raises:
            DocumentNotFound: neither is there.
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
    def snapshot(self, owner: Owner, collection: str, wanted: Filter | None) -> AbstractAsyncContextManager[Snapshot]:
        """Hold a view of the collection's documents that a filter takes."""
