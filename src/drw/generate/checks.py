"""Consistency checks of code and contracts against the catalog; each problem is a sentence with its remedy."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from drw.api.contract import snake
from drw.catalog import BY_NAME, Service
from drw.generate import rest_routes
from drw.generate.operations import path_names
from drw.generate.protos import ROOT, Protos, compiled
from drw.kernel.rpc.context import ANY_SCOPE, SCOPES

KERNEL = "drw.api.kernel."


def problems() -> list[str]:
    """Return everything found in this checkout."""
    rows = tuple(BY_NAME.values())
    protos = compiled()
    sources = {row.name: _sources(row) for row in rows}
    return [
        *wrong_calls(rows, {name: clients(texts.values()) for name, texts in sources.items()}),
        *cycles(rows),
        *without_code(rows, {name: set(texts) for name, texts in sources.items()}),
        *wrong_contracts(rows, protos),
        *wrong_rest(protos, SCOPES),
        *rest_routes.problems(protos, rows),
    ]


def wrong_calls(rows: Iterable[Service], used: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Compare the clients that each service's code uses with its row in the catalog."""
    for row in rows:
        for name in sorted(set(used[row.name]) - set(row.calls)):
            yield f"{row.name} calls {name}: add it to its row in src/drw/catalog.py"
        for name in sorted(set(row.calls) - set(used[row.name])):
            yield f"{row.name} never calls {name}: take it out of its row in src/drw/catalog.py"


def clients(sources: Iterable[str]) -> set[str]:
    """Return the services whose clients the Python sources name."""
    return {name for text in sources for name in _clients(ast.parse(text))}


def cycles(rows: Iterable[Service]) -> Iterator[str]:
    """Find cycles of calls, and calls of unknown services."""
    calls = {row.name: row.calls for row in rows}
    for name, called in calls.items():
        for unknown in sorted(set(called) - calls.keys()):
            yield f"{name} calls {unknown!r}, which is no service"
        if path := _way_back(name, calls):
            yield f"services call each other in a circle: {' -> '.join(path)}"


def without_code(rows: Iterable[Service], files: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Find services whose folder lacks a required file."""
    for row in rows:
        folder = f"src/{row.package.replace('.', '/')}"
        for file in ("__init__.py", "service.py"):
            if file not in files[row.name]:
                yield f"{row.name} has no {folder}/{file}"


def wrong_contracts(rows: Iterable[Service], protos: Protos) -> Iterator[str]:
    """Compare the catalog with the services in the proto files."""
    rows_by_contract = {row.contract: row for row in rows}
    there = {contract.name: contract for contract in protos.contracts if not contract.name.startswith(KERNEL)}
    for name in sorted(rows_by_contract.keys() - there.keys()):
        row = rows_by_contract[name]
        yield f"{row.name} has no contract {name}: describe it in proto/drw/api/{row.cluster}/v1/{row.name}.proto"
    for name in sorted(there.keys() - rows_by_contract.keys()):
        yield f"proto/{there[name].file} describes {name}, which is not in src/drw/catalog.py"


def wrong_rest(protos: Protos, scopes: Collection[str]) -> Iterator[str]:
    """Find invalid REST bindings: missing scopes, wrong bodies, unknown fields and duplicate paths."""
    methods = [(f"{c.name}.{m.name}", m) for c in protos.contracts for m in c.methods if m.verb or m.scope]
    for name, method in methods:
        if not method.verb:
            yield f"{name} has a scope and no path: only methods with google.api.http are reached from outside"
        elif method.scope not in scopes and method.scope != ANY_SCOPE:
            yield f"{name} needs the scope {method.scope!r}; there are: {', '.join(scopes)}"
        if method.body not in ("", "*"):
            yield f'{name} has the body {method.body!r}; it can be "" or "*"'
        fields = {field.name for field in protos.messages[method.request].fields}
        for missing in sorted(set(path_names(method.path)) - fields):
            yield f"{name} has {missing!r} in its path, and no such field in its request"
    for (verb, path), count in Counter((m.verb, m.path) for _, m in methods if m.verb).items():
        if count > 1:
            yield f"{count} methods are {verb} {path}"


def _clients(tree: ast.Module) -> Iterator[str]:
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drw.api."):
            names = [alias.name for alias in node.names]
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.endswith("_rpc")}
            yield from (_service(name) for name in names if _is_client(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield from [_service(node.attr)] if _is_client(node.attr) else []


def _is_client(name: str) -> bool:
    return name.endswith("Client") and name != "Client"


def _service(client: str) -> str:
    return snake(client.removesuffix("Client"))


def _way_back(start: str, calls: Mapping[str, Collection[str]]) -> list[str]:
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for name in calls.get(way[-1], ()):
            if name == start:
                return [*way, start] if start == min(way) else []  # each circle once, from its first name
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def _sources(row: Service) -> dict[str, str]:
    folder = ROOT / "src" / row.package.replace(".", "/")
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}
