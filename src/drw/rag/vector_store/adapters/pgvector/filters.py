"""Attribute filters as jsonpath of PostgreSQL: passed as a parameter, never as part of a statement.

A comparison of two types is unknown in jsonpath, which neither takes nor leaves out; inside of `exists` it is false,
so that `ne` is the opposite of `eq` also for another type and for an attribute that is not there.
"""

from __future__ import annotations

import json

from drw.kernel.attribute_filters import Comparison, Filter

OPERATORS = {"eq": "==", "ne": "==", "in": "==", "nin": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
NEGATED = ("ne", "nin")
JOINED = {"and": " && ", "or": " || "}


def to_jsonpath(condition: Filter | None) -> str | None:
    """Return a filter as a jsonpath predicate for the operator `@@`; None takes everything."""
    return None if condition is None else _path(condition)


def _path(condition: Filter) -> str:
    if isinstance(condition, Comparison):
        return _comparison(condition)
    return JOINED[condition.type].join(f"({_path(part)})" for part in condition.filters)


def _comparison(condition: Comparison) -> str:
    operator = OPERATORS[condition.type]
    # JSON in ASCII is a literal of jsonpath too.
    any_of = " || ".join(f"@ {operator} {json.dumps(value)}" for value in condition.values)
    expression = f"exists($.{json.dumps(condition.key)} ? ({any_of}))"
    return f"!({expression})" if condition.type in NEGATED else expression
