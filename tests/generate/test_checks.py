"""What `drw generate --check` finds, on made-up rows, sources and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drw.catalog import Service
from drw.cli.generate import differences, write
from drw.generate import checks
from drw.generate.protos import Contract, Field, Message, Method, Protos


def row(name: str, *calls: str, cluster: str = "rag") -> Service:
    return Service(name=name, cluster=cluster, summary="", calls=calls)


@pytest.mark.parametrize(
    ("source", "found"),
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
def test_clients_used_in_a_source(source: str, found: Any) -> None:
    assert checks.clients([source]) == found


def test_missing_and_superfluous_calls_in_the_catalog() -> None:
    rows = [row("retrieval", "embedding", "serving"), row("embedding")]
    found = list(checks.call_problems(rows, {"retrieval": {"embedding", "vector_store"}, "embedding": set()}))
    assert found == [
        "retrieval calls vector_store: add it to its row in src/drw/catalog.py",
        "retrieval never calls serving: take it out of its row in src/drw/catalog.py",
    ]


def test_cycles_of_calls_are_found() -> None:
    assert list(checks.cycles([row("a", "b", "c"), row("b", "c"), row("c")])) == []
    found = list(checks.cycles([row("a", "b"), row("b", "c"), row("c", "d", "a"), row("d", "d", "e")]))
    assert found == [
        "services call each other in a cycle: a -> b -> c -> a",
        "d calls 'e', which is no service",
        "services call each other in a cycle: d -> d",
    ]


def test_a_service_without_its_files() -> None:
    found = list(checks.missing_files([row("a"), row("b")], {"a": {"__init__.py", "service.py"}, "b": set()}))
    assert found == ["b has no src/drw/rag/b/__init__.py", "b has no src/drw/rag/b/service.py"]


def protos(*methods: Method) -> Protos:
    contracts = (
        Contract("drw.api.rag.v1.Retrieval", "drw/api/rag/v1/retrieval.proto", "", methods),
        Contract("drw.api.kernel.v1.Process", "drw/api/kernel/v1/kernel.proto", "", ()),
    )
    request = Message("drw.api.rag.v1.SearchRequest", "", (Field("collection", "string"),))
    return Protos(contracts, {request.name: request}, {}, {}, {})


def method(name: str, **more: Any) -> Method:
    return Method(name, "", "drw.api.rag.v1.SearchRequest", "drw.api.rag.v1.SearchRequest", **more)


def test_contracts_and_catalog_rows_that_do_not_match() -> None:
    assert list(checks.contract_problems([row("retrieval")], protos())) == []
    assert list(checks.contract_problems([row("vector_store")], protos())) == [
        "vector_store has no contract drw.api.rag.v1.VectorStore: "
        "describe it in proto/drw/api/rag/v1/vector_store.proto",
        "proto/drw/api/rag/v1/retrieval.proto describes drw.api.rag.v1.Retrieval, which is not in src/drw/catalog.py",
    ]


def test_rest_methods_without_or_with_an_unknown_scope() -> None:
    good = method("Good", verb="POST", path="/api/v1/{collection}", body="*", scope="documents:read")
    assert list(checks.rest_problems(protos(good, method("Inside")), {"documents:read"})) == []
    wrong = protos(
        method("Open", verb="GET", path="/api/v1/open"),
        method("Closed", scope="documents:read"),
        method("Misspelt", verb="GET", path="/api/v1/{colection}", body="x", scope="document:read"),
        good,
        method("Twin", verb="POST", path="/api/v1/{collection}", body="*", scope="documents:read"),
    )
    prefix = "drw.api.rag.v1.Retrieval"
    assert list(checks.rest_problems(wrong, {"documents:read"})) == [
        f"{prefix}.Open needs the scope ''; there are: documents:read",
        f"{prefix}.Closed has a scope and no path: only methods with google.api.http are reached from outside",
        f"{prefix}.Misspelt needs the scope 'document:read'; there are: documents:read",
        f"""{prefix}.Misspelt has the body 'x'; it can be "" or "*\"""",
        f"{prefix}.Misspelt has 'colection' in its path, and no such field in its request",
        "2 methods are POST /api/v1/{collection}",
    ]


def test_stale_and_orphaned_files_are_reported_and_fixed(tmp_path: Path) -> None:
    gone = tmp_path / "src/drw/api/rag/v1/gone_pb2.py"
    by_hand = tmp_path / "src/drw/api/contract.py"
    gone.parent.mkdir(parents=True)
    gone.write_text("")
    by_hand.write_text("by hand")
    (tmp_path / "old.md").write_text("old")
    made = {"old.md": "new", "docs/new.md": "new"}
    assert differences(made, tmp_path) == [
        "docs/new.md is not up to date: run `drw generate`",
        "old.md is not up to date: run `drw generate`",
        "src/drw/api/rag/v1/gone_pb2.py is obsolete: run `drw generate`",
    ]
    assert write(made, tmp_path) == [
        "wrote docs/new.md",
        "wrote old.md",
        "removed src/drw/api/rag/v1/gone_pb2.py",
    ]
    assert differences(made, tmp_path) == []
    assert write(made, tmp_path) == []
    assert by_hand.read_text() == "by hand"
