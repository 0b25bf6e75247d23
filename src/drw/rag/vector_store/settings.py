"""Settings of search and of its adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base

Fusion = Literal["coverage", "min-max", "rrf"]


class Ranking(Base):
    """Weights of keyword and vector search; the defaults come from bench/retrieval.py."""

    fusion: Fusion = "min-max"
    """Fusion of the keyword and vector scores of a chunk."""
    vector_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the vector score; the keyword score has the rest."""
    narrowed_fusion: Fusion = "coverage"
    """Fusion of scores after automatic filters, which leave few documents. "min-max" would stretch the small keyword
    differences that remain; "coverage" keeps them small."""
    narrowed_vector_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the vector score after automatic filters. With "coverage", the keyword weight grows with the share of
    the question's terms that the best chunk has."""
    candidates: int = Field(default=200, ge=50)
    """Best chunks of each search that are fused."""
    per_page: int = Field(default=2, ge=1)
    """Maximum chunks of one page that rank before other pages."""


class PgvectorSettings(Base):
    """How pgvector searches."""

    exact_up_to: int = 20_000
    """Maximum chunks of which a search compares all vectors; above, it uses the HNSW graph, which is approximate."""
    exact_below_share: float = 0.1
    """A search that covers a smaller share of all vectors compares every one of them: the graph contains the
    vectors of all desks and would find too few."""
    ef_search: int = 200
    """Candidates of a graph search; more is more exact and slower."""
    pool_size: int = 8
    """Connections to PostgreSQL."""


class Settings(Ranking):
    """`[services.vector_store]`."""

    index: Literal["pgvector"] = "pgvector"
    """The adapter of the vector database."""
    pgvector: PgvectorSettings = PgvectorSettings()
