"""Consistency checks of code and contracts against the catalog; each problem is a sentence with its remedy."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from drw.api.contract import snake
from drw.catalog import BY_NAME, Service
from drw.generate import rest_routes
from drw.generate.protos import ROOT, Protos, compiled
from drw.generate.reference.operations import path_names
from drw.kernel.rpc.context import ANY_SCOPE, SCOPES

KERNEL = "drw.api.kernel."


def problems() -> list[str]:
    """Return all problems of this checkout."""
    services = tuple(BY_NAME.values())
    protos = compiled()
    sources = {service.name: _sources(service) for service in services}
    return [
        *call_problems(services, {name: clients(texts.values()) for name, texts in sources.items()}),
        *cycles(services),
        *missing_files(services, {name: set(texts) for name, texts in sources.items()}),
        *contract_problems(services, protos),
        *rest_problems(protos, SCOPES),
        *rest_routes.problems(protos, services),
    ]


def call_problems(services: Iterable[Service], used: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Compare the clients that each service's code uses with its row in the catalog."""
    for service in services:
        for name in sorted(set(used[service.name]) - set(service.calls)):
            yield f"{service.name} calls {name}: add it to its row in src/drw/catalog.py"
        for name in sorted(set(service.calls) - set(used[service.name])):
            yield f"{service.name} never calls {name}: take it out of its row in src/drw/catalog.py"


def clients(sources: Iterable[str]) -> set[str]:
    """Return the services whose clients the Python sources name."""
    return {name for text in sources for name in _clients(ast.parse(text))}


def cycles(services: Iterable[Service]) -> Iterator[str]:
    """Find cycles of calls, and calls of unknown services."""
    calls = {service.name: service.calls for service in services}
    for name, called in calls.items():
        for unknown in sorted(set(called) - calls.keys()):
            yield f"{name} calls {unknown!r}, which is no service"
        if path := _cycle_from(name, calls):
            yield f"services call each other in a cycle: {' -> '.join(path)}"


def missing_files(services: Iterable[Service], files: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Find services whose folder lacks a required file."""
    for service in services:
        folder = f"src/{service.package.replace('.', '/')}"
        for file in ("__init__.py", "service.py"):
            if file not in files[service.name]:
                yield f"{service.name} has no {folder}/{file}"


def contract_problems(services: Iterable[Service], protos: Protos) -> Iterator[str]:
    """Compare the catalog with the services in the proto files."""
    services_by_contract = {service.contract: service for service in services}
    contracts = {contract.name: contract for contract in protos.contracts if not contract.name.startswith(KERNEL)}
    for name in sorted(services_by_contract.keys() - contracts.keys()):
        service = services_by_contract[name]
        file = f"proto/drw/api/{service.cluster}/v1/{service.name}.proto"
        yield f"{service.name} has no contract {name}: describe it in {file}"
    for name in sorted(contracts.keys() - services_by_contract.keys()):
        yield f"proto/{contracts[name].file} describes {name}, which is not in src/drw/catalog.py"


def rest_problems(protos: Protos, scopes: Collection[str]) -> Iterator[str]:
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
            yield from (_service_name(name) for name in names if _is_client_name(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield from [_service_name(node.attr)] if _is_client_name(node.attr) else []


def _is_client_name(name: str) -> bool:
    return name.endswith("Client") and name != "Client"


def _service_name(client: str) -> str:
    return snake(client.removesuffix("Client"))


def _cycle_from(start: str, calls: Mapping[str, Collection[str]]) -> list[str]:
    paths = [[start]]
    visited: set[str] = set()
    while paths:
        path = paths.pop()
        for name in calls.get(path[-1], ()):
            if name == start:
                return [*path, start] if start == min(path) else []  # each cycle once, from its first name
            if name not in visited:
                visited.add(name)
                paths.append([*path, name])
    return []


def _sources(service: Service) -> dict[str, str]:
    folder = ROOT / "src" / service.package.replace(".", "/")
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}
