"""The checks of `drw generate --check`, on made-up services, sources and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from drw.catalog import Service
from drw.cli.generate import differences, write
from drw.generate import checks
from drw.generate.protos import Contract, Field, Message, Method, Protos
from support.json_types import Json


def service(name: str, *calls: str, cluster: str = "rag") -> Service:
    return Service(name=name, cluster=cluster, summary="", calls=calls)


@pytest.mark.parametrize(
    ("source", "clients"),
    [
        ("from drw.api.rag.v1.vector_store_rpc import VectorStoreClient", {"vector_store"}),
        ("from drw.api.rag.v1.embedding_rpc import EmbeddingClient as E", {"embedding"}),
        ("from drw.api.rag.v1 import embedding_rpc\nembedding_rpc.EmbeddingClient", {"embedding"}),
        ("from drw.api.rag.v1 import embedding_rpc as e\nx = scope.client(e.EmbeddingClient)", {"embedding"}),
        ("def f():\n    from drw.api.rag.v1.embedding_rpc import EmbeddingClient", {"embedding"}),
        ("from drw.api.rag.v1 import retrieval_rpc as contract\nclass R(contract.Retrieval): ...", set()),
        ("from drw.api.contract import Client", set()),
        ("from openai import OpenAIClient", set()),
    ],
)
def test_clients_of_a_source_are_found(source: str, clients: set[str]) -> None:
    assert checks.clients([source]) == clients


def test_missing_and_superfluous_calls_are_reported() -> None:
    services = [service("retrieval", "embedding", "serving"), service("embedding")]
    problems = list(checks.call_problems(services, {"retrieval": {"embedding", "vector_store"}, "embedding": set()}))
    assert problems == [
        "retrieval calls vector_store: add it to its row in src/drw/catalog.py",
        "retrieval never calls serving: take it out of its row in src/drw/catalog.py",
    ]


def test_call_cycles_are_reported() -> None:
    assert list(checks.cycles([service("a", "b", "c"), service("b", "c"), service("c")])) == []
    problems = list(
        checks.cycles([service("a", "b"), service("b", "c"), service("c", "d", "a"), service("d", "d", "e")])
    )
    assert problems == [
        "services call each other in a cycle: a -> b -> c -> a",
        "d calls 'e', which is no service",
        "services call each other in a cycle: d -> d",
    ]


def test_missing_files_of_a_service_are_reported() -> None:
    problems = list(
        checks.missing_files([service("a"), service("b")], {"a": {"__init__.py", "service.py"}, "b": set()})
    )
    assert problems == ["b has no src/drw/rag/b/__init__.py", "b has no src/drw/rag/b/service.py"]


def protos(*methods: Method) -> Protos:
    contracts = (
        Contract("drw.api.rag.v1.Retrieval", "drw/api/rag/v1/retrieval.proto", "", methods),
        Contract("drw.api.kernel.v1.Process", "drw/api/kernel/v1/kernel.proto", "", ()),
    )
    request = Message("drw.api.rag.v1.SearchRequest", "", (Field("collection", "string"),))
    return Protos(contracts, {request.name: request}, {}, {}, {})


def method(name: str, **options: Json) -> Method:
    return Method(name, "", "drw.api.rag.v1.SearchRequest", "drw.api.rag.v1.SearchRequest", **options)


def test_mismatch_of_contracts_and_catalog_is_reported() -> None:
    assert list(checks.contract_problems([service("retrieval")], protos())) == []
    assert list(checks.contract_problems([service("vector_store")], protos())) == [
        "vector_store has no contract drw.api.rag.v1.VectorStore: "
        "describe it in proto/drw/api/rag/v1/vector_store.proto",
        "proto/drw/api/rag/v1/retrieval.proto describes drw.api.rag.v1.Retrieval, which is not in src/drw/catalog.py",
    ]


def test_invalid_rest_methods_are_reported() -> None:
    valid = method("Good", verb="POST", path="/api/v1/{collection}", body="*", scope="documents:read")
    assert list(checks.rest_problems(protos(valid, method("Inside")), {"documents:read"})) == []
    invalid = protos(
        method("Open", verb="GET", path="/api/v1/open"),
        method("Closed", scope="documents:read"),
        method("Misspelt", verb="GET", path="/api/v1/{colection}", body="x", scope="document:read"),
        valid,
        method("Twin", verb="POST", path="/api/v1/{collection}", body="*", scope="documents:read"),
    )
    prefix = "drw.api.rag.v1.Retrieval"
    assert list(checks.rest_problems(invalid, {"documents:read"})) == [
        f"{prefix}.Open needs the scope ''; there are: documents:read",
        f"{prefix}.Closed has a scope and no path: only methods with google.api.http are reached from outside",
        f"{prefix}.Misspelt needs the scope 'document:read'; there are: documents:read",
        f"""{prefix}.Misspelt has the body 'x'; it can be "" or "*\"""",
        f"{prefix}.Misspelt has 'colection' in its path, and no such field in its request",
        "2 methods are POST /api/v1/{collection}",
    ]


def test_stale_and_obsolete_files_are_reported_and_fixed(tmp_path: Path) -> None:
    obsolete = tmp_path / "src/drw/api/rag/v1/gone_pb2.py"
    handwritten = tmp_path / "src/drw/api/contract.py"
    obsolete.parent.mkdir(parents=True)
    obsolete.write_text("")
    handwritten.write_text("by hand")
    (tmp_path / "old.md").write_text("old")
    files = {"old.md": "new", "docs/new.md": "new"}
    assert differences(files, tmp_path) == [
        "docs/new.md is not up to date: run `drw generate`",
        "old.md is not up to date: run `drw generate`",
        "src/drw/api/rag/v1/gone_pb2.py is obsolete: run `drw generate`",
    ]
    assert write(files, tmp_path) == [
        "wrote docs/new.md",
        "wrote old.md",
        "removed src/drw/api/rag/v1/gone_pb2.py",
    ]
    assert differences(files, tmp_path) == []
    assert write(files, tmp_path) == []
    assert handwritten.read_text() == "by hand"
