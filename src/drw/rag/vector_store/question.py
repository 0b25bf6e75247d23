"""Reads a question: its terms, what it names, and whether it asks for the newest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drw.rag.vector_store.periods import period_terms
from drw.rag.vector_store.terms import WORD, words

NEWEST = re.compile(r"\b(?:latest|newest|most\s+recent(?:ly)?|last\s+reported)\b", re.IGNORECASE)
MAX_TERMS = 64

WEIGHT_OF_NAME = 1.0
WEIGHT_OF_PERIOD = 1.5
WEIGHT_OF_WORD = 0.5
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
    periods = period_terms(text)
    plain = words(text)
    found = tuple(dict.fromkeys([*periods, *plain]))[:MAX_TERMS]
    weights = dict.fromkeys(plain, WEIGHT_OF_WORD) | dict.fromkeys(_names(text), WEIGHT_OF_NAME)
    weights |= dict.fromkeys(periods, WEIGHT_OF_PERIOD)
    return Question(found, {term: weights[term] for term in found if term in weights}, bool(NEWEST.search(text)))


def _names(text: str) -> list[str]:
    """Return the terms of words that are written as names are: with a capital or a digit in them."""
    return [term for word in WORD.findall(text) if word != word.lower() or word[0].isdigit() for term in words(word)]
