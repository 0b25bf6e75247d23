"""Attribute filters as jsonpath of PostgreSQL: passed as a parameter, never as part of a statement.

In jsonpath, a comparison of different types is unknown, neither true nor false. Inside `exists` it is false, so `ne` is
the opposite of `eq` for other types and missing attributes too.
"""

from __future__ import annotations

import json

from drw.kernel.attribute_filters import Comparison, Filter

OPERATORS = {"eq": "==", "ne": "==", "in": "==", "nin": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
NEGATED = ("ne", "nin")
JOINED = {"and": " && ", "or": " || "}


def to_jsonpath(condition: Filter | None) -> str | None:
    """Return a filter as a jsonpath predicate for the operator `@@`; None matches everything."""
    return None if condition is None else _path(condition)


def _path(condition: Filter) -> str:
    if isinstance(condition, Comparison):
        return _comparison(condition)
    return JOINED[condition.type].join(f"({_path(part)})" for part in condition.filters)


def _comparison(condition: Comparison) -> str:
    operator = OPERATORS[condition.type]
    # JSON in ASCII is also a valid jsonpath literal.
    any_of = " || ".join(f"@ {operator} {json.dumps(value)}" for value in condition.values)
    expression = f"exists($.{json.dumps(condition.key)} ? ({any_of}))"
    return f"!({expression})" if condition.type in NEGATED else expression
