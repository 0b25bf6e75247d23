"""Settings of search and of its adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base

Fusion = Literal["coverage", "min-max", "rrf"]


class Ranking(Base):
    """Weights of keyword and vector search; the defaults come from bench/retrieval.py."""

    fusion: Fusion = "min-max"
    """How the two scores of a chunk become one."""
    vector_weight: float = Field(default=0.5, ge=0, le=1)
    """The vector leg's part in the score of a chunk; the words have the rest."""
    narrowed_fusion: Fusion = "coverage"
    """Fusion of scores after automatic filters, which leave few documents. "min-max" would stretch the small keyword
    differences that remain; "coverage" keeps them small."""
    narrowed_vector_weight: float = Field(default=0.5, ge=0, le=1)
    """The vector leg's part there; by "coverage" the words have the more of the rest, the more of them a chunk has."""
    candidates: int = Field(default=200, ge=50)
    """Chunks of each leg that are fused."""
    per_page: int = Field(default=2, ge=1)
    """Chunks of one page that are ranked before other pages."""


class PgvectorSettings(Base):
    """How pgvector searches."""

    exact_up_to: int = 20_000
    """Chunks up to which all vectors are compared; above, the graph is asked, which finds nearly all."""
    exact_below_share: float = 0.1
    """Share of all vectors below which those that are searched are compared one by one, however many they are:
    the graph is of all, and finds too few of them."""
    ef_search: int = 200
    """How many nearest vectors the graph is asked for; more is more exact, and slower."""
    pool_size: int = 8
    """Connections to PostgreSQL."""


class Settings(Ranking):
    """`[services.vector_store]`."""

    index: Literal["pgvector"] = "pgvector"
    """The adapter of the vector database."""
    pgvector: PgvectorSettings = PgvectorSettings()
