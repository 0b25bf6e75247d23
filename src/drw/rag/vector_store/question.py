"""Question analysis: search terms, named metadata, and whether it asks for the newest documents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drw.rag.vector_store import metadata
from drw.rag.vector_store.periods import period_terms
from drw.rag.vector_store.terms import words

NEWEST = re.compile(r"\b(?:latest|newest|most\s+recent(?:ly)?|last\s+reported)\b", re.IGNORECASE)
MAX_TERMS = 64


@dataclass(frozen=True, slots=True)
class Question:
    """An analysed question."""

    terms: tuple[str, ...]
    metadata_terms: Mapping[str, Sequence[str]]
    """The terms that may name documents by their metadata, by key, the most specific key first."""
    asks_for_newest: bool


def analyse(text: str) -> Question:
    """Analyse a question."""
    terms = tuple(dict.fromkeys([*period_terms(text), *words(text)]))[:MAX_TERMS]
    return Question(terms, metadata.question_terms(text), bool(NEWEST.search(text)))
