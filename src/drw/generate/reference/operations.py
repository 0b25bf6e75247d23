"""REST operations of the platform: fields in path, query and body, and descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drw.api.contract import snake
from drw.catalog import BY_NAME, Service
from drw.generate.protos import Contract, Field, Method, Protos

JSON = "drw.api.kernel.v1.Json"
"""The message that REST renders as the JSON value in it."""
RESUME_FIELD = "last_event_id"
"""The field of a request that the header Last-Event-ID sets."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a service with a REST binding."""

    service: Service
    method: Method
    path_fields: tuple[Field, ...]
    query_fields: tuple[Field, ...]
    body_fields: tuple[Field, ...]
    resumes: bool
    """Whether a client can resume the stream after an interruption."""

    @property
    def id(self) -> str:
        """The unique name, as in `log.ListRecords`."""
        return f"{self.service.name}.{self.method.name}"

    @property
    def text(self) -> str:
        """The description, in sentences."""
        return description(self.method.comment, self.method.name)

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return re.split(r"(?<=[.;:])\s", self.text)[0].rstrip(".;:")


def operations(protos: Protos) -> list[Operation]:
    """Return every REST operation, in the order of the catalog and of the contracts."""
    by_name = {contract.name: contract for contract in protos.contracts}
    services = [service for service in BY_NAME.values() if service.contract in by_name]
    return [
        operation for service in services for operation in _operations_of(service, by_name[service.contract], protos)
    ]


def path_names(path: str) -> list[str]:
    """Return the names in braces."""
    return re.findall(r"{(\w+)}", path)


def description(comment: str, name: str) -> str:
    """Return a comment without the leading name: "GetKey shows one key." becomes "Shows one key."."""
    text = comment.removeprefix(f"{name} ") or f"{snake(name).replace('_', ' ')}."
    return text[:1].upper() + text[1:]


def short(name: str) -> str:
    """Return the short name of a message: `rag.Passage` for `drw.api.rag.v1.Passage`."""
    cluster, _, rest = name.removeprefix("drw.api.").partition(".v1.")
    return f"{cluster}.{rest}"


def reachable(all_operations: Iterable[Operation], protos: Protos) -> list[str]:
    """Return the messages and enums that the REST API exposes, sorted by short name."""
    pending = [o.method.response for o in all_operations] + [f.of for o in all_operations for f in o.body_fields]
    visited: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in visited and name != JSON and (name in protos.messages or name in protos.enums):
            visited.add(name)
            pending += [f.of for f in protos.messages[name].fields] if name in protos.messages else []
    return sorted(visited, key=short)


def _operations_of(service: Service, contract: Contract, protos: Protos) -> Iterator[Operation]:
    for method in contract.methods:
        if method.verb:
            fields = {field.name: field for field in protos.messages[method.request].fields}
            path_fields = tuple(fields.pop(name) for name in path_names(method.path))
            resumes = fields.pop(RESUME_FIELD, None) is not None
            remaining = tuple(fields.values())
            query, body = ((), remaining) if method.body == "*" else (remaining, ())
            yield Operation(service, method, path_fields, query, body, resumes)
