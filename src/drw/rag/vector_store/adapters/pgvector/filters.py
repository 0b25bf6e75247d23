"""Filters over attributes as PostgreSQL's jsonpath: one value for a parameter, never a part of a statement.

A comparison of two types is unknown in jsonpath, which neither takes nor leaves out; inside of `exists` it is false,
so that `ne` is the opposite of `eq` also for another type and for an attribute that is not there.
"""

from __future__ import annotations

import json

from drw.kernel.attribute_filters import Comparison, Filter

OPERATORS = {"eq": "==", "ne": "==", "in": "==", "nin": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
NEGATED = ("ne", "nin")
JOINED = {"and": " && ", "or": " || "}


def to_jsonpath(wanted: Filter | None) -> str | None:
    """Return a filter as a jsonpath predicate for the operator `@@`; None takes everything."""
    return None if wanted is None else _path(wanted)


def _path(wanted: Filter) -> str:
    if isinstance(wanted, Comparison):
        return _comparison(wanted)
    return JOINED[wanted.type].join(f"({_path(part)})" for part in wanted.parts)


def _comparison(wanted: Comparison) -> str:
    operator = OPERATORS[wanted.type]
    # JSON in ASCII is a literal of jsonpath too.
    any_of = " || ".join(f"@ {operator} {json.dumps(value)}" for value in wanted.values)
    found = f"exists($.{json.dumps(wanted.key)} ? ({any_of}))"
    return f"!({found})" if wanted.type in NEGATED else found
