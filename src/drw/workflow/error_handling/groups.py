"""Groups of dead letters: failures with the same template, node, class and error have the same fingerprint."""

from __future__ import annotations

import hashlib
import re

import orjson

from drw.api.workflow.v1.orchestration_pb2 import Failure, FailureClass

LENGTH = 16
"""Characters of a fingerprint: 64 bits, since a desk has few groups."""
VARIABLE = re.compile(
    r"'[^']*'|\"[^\"]*\"|`[^`]*`"  # quoted values
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b|\b\w*[0-9]\w*\b",  # ids, hashes, numbers
    re.IGNORECASE,
)

INDEX = re.compile(r"[./][0-9]+")
"""The number of an item, an iteration or a case in the id of a step."""


def node_of(step: str) -> str:
    """Return the node of a step such as "summarise/2" or "each.4.summarise"."""
    return INDEX.sub("", step)


def fingerprint(failure: Failure) -> str:
    """Return the group of a failure. Values in its message, such as ids and numbers, make no difference."""
    fields = [
        failure.template,
        node_of(failure.step),
        FailureClass.Name(failure.failure_class),
        failure.reason,
        VARIABLE.sub("#", failure.error),
    ]
    return hashlib.sha256(orjson.dumps(fields)).hexdigest()[:LENGTH]
