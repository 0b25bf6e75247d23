"""Tokenisation into search terms, the same for documents and questions."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import snowballstemmer

from drw.rag.vector_store.periods import period_terms

WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:&\w+)*(?=['’]s\b)|\w+(?:&\w+)*")
STOP_WORDS = frozenset(
    WORD.findall(
        "a about across after all also an and any are as at be been being between both but by can could did do "
        "does doing during each for from had has have having he her here hers him his how i if in into is it its "
        "itself just me more most my no nor not of on once only or other our out over own per s same she should so "
        "some such t than that the their them then there these they this those through to too under until up upon "
        "us very was we were what when where which while who whom why will with within would you your yours"
    )
)
MAX_LENGTH = 64

_stemmer = snowballstemmer.stemmer("english")


def terms(text: str) -> list[str]:
    """Return the terms of a text, in order: stemmed words, whole numbers, and the periods it names."""
    normal = unicodedata.normalize("NFKC", text)
    return [*words(normal), *period_terms(normal)]


def words(text: str) -> list[str]:
    """Return the stemmed words and the numbers of a text; a number has no separators: 81,797 is `81797`."""
    return [term for word in WORD.findall(text.lower()) if (term := _term(word))]


@lru_cache(maxsize=1 << 16)
def _term(word: str) -> str:
    if word in STOP_WORDS or len(word) > MAX_LENGTH:
        return ""
    if word[0].isdigit():
        return word.replace(",", "")
    return str(_stemmer.stemWord(word))
