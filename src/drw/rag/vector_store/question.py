"""Reads a question: its terms, what it names, and whether it asks for the newest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drw.rag.vector_store.periods import period_terms
from drw.rag.vector_store.terms import WORD as WRITTEN
from drw.rag.vector_store.terms import words

NEWEST = re.compile(r"\b(?:latest|newest|most\s+recent(?:ly)?|last\s+reported)\b", re.IGNORECASE)
MAX_TERMS = 64

NAME = 1.0
PERIOD = 1.5
WORD = 0.5
"""How surely a term of the question names the document that is sought."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a question asks for, as the index can look it up."""

    terms: tuple[str, ...]
    names: dict[str, float]
    """The terms that may name a document, with how surely each does."""
    newest: bool


def read(text: str) -> Question:
    """Return what a question asks for."""
    periods, plain = period_terms(text), words(text)
    found = tuple(dict.fromkeys([*periods, *plain]))[:MAX_TERMS]
    names = dict.fromkeys(plain, WORD) | dict.fromkeys(_names(text), NAME) | dict.fromkeys(periods, PERIOD)
    return Question(found, {term: names[term] for term in found}, bool(NEWEST.search(text)))


def _names(text: str) -> list[str]:
    """Return the terms of words that are written as names are: with a capital or a digit in them."""
    return [term for word in WRITTEN.findall(text) if word != word.lower() or word[0].isdigit() for term in words(word)]
