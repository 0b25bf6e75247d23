"""Validation rules of contract fields: checked by every transport before it calls the service."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from drw.api.gateway.v1.authentication_pb2 import ClaimNames, PutIssuerRequest, Role
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.load_balancer_rpc import LoadBalancerClient
from drw.api.gateway.v1.rate_limiting_pb2 import Budget, Limit
from drw.api.gateway.v1.request_router_pb2 import CreateKillRequest, ExplainRouteRequest, HeaderMatch, Route, Share
from drw.api.rag.v1.retrieval_pb2 import SearchRequest
from drw.api.rag.v1.vector_store_pb2 import Chunk, CreateCollectionRequest, Document, PutDocumentRequest
from drw.kernel.attributes import to_values
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.validation import validate
from support.hosting import hosted

NAME_RULE = "lower-case letters, digits, '-', '_' and '.', at most 63"


def upstream(**fields: object) -> Upstream:
    return Upstream(**{"name": "vllm", "addresses": ["vllm:8000"], **fields})  # type: ignore[arg-type]


def route(**fields: object) -> Route:
    return Route(**{"name": "r", "path": "/v1/x", "scopes": ["models:invoke"], **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "param", "text"),
    [
        (upstream(name=""), "name", f"name is missing; it must be {NAME_RULE}"),
        (upstream(name="Up"), "name", f"name is 'Up'; it must be {NAME_RULE}"),
        (upstream(name="a" * 200), "name", f"name is {'a' * 80!r}; it must be {NAME_RULE}"),
        (upstream(name="a\n"), "name", f"name is 'a\\n'; it must be {NAME_RULE}"),
        (upstream(addresses=[]), "addresses", "addresses is empty; it needs at least one"),
        (upstream(addresses=["a:1"] * 2), "addresses", "addresses has 'a:1' twice; each item can be given once"),
        (
            upstream(addresses=[f"a:{i}" for i in range(65)]),
            "addresses",
            "addresses has 65 items; it can have at most 64",
        ),
        (upstream(connect_ms=-1), "connect_ms", "connect_ms is -1; it can be 0 to 60000"),
        (upstream(connect_ms=60_001), "connect_ms", "connect_ms is 60001; it can be 0 to 60000"),
        (
            upstream(balancing="best"),
            "balancing",
            "balancing is 'best'; it can be: least_request, ring_hash, round_robin, random",
        ),
        (
            upstream(when_gone=" x"),
            "when_gone",
            "when_gone is ' x'; it can have up to 300 printable characters",
        ),
        (route(methods=["GET", "get"]), "methods[1]", "methods[1] is 'get'; it can be: GET, HEAD, POST, PUT, PATCH"),
        (route(scopes=["models:all"]), "scopes[0]", "scopes[0] is 'models:all'; it can be: models:invoke"),
        (route(models=[""]), "models[0]", "models[0] is ''; it can have up to 200 printable characters"),
        (
            route(headers=[HeaderMatch(name="x-team"), HeaderMatch(name="X Y")]),
            "headers[1].name",
            "headers[1].name is 'X Y'; it must be the name of a header in lower case, as in 'x-team'",
        ),
        (route(headers=[HeaderMatch()]), "headers[0].name", "headers[0].name is missing; it must be the name of a"),
        (route(split=[Share(weight=1001)]), "split[0].weight", "split[0].weight is 1001; it can be 0 to 1000"),
        (
            ExplainRouteRequest(path="/x", headers={str(i): "" for i in range(101)}),
            "headers",
            "headers has 101 items; it can have at most 100",
        ),
        (
            CreateKillRequest(name="m", reason="r"),
            "subject",
            "subject is missing; it must be KEY, DESK, MODEL or WORKFLOW",
        ),
        (Budget(amount="1"), "period", "period is missing; it must be DAY, MONTH or TOTAL"),
        (
            PutIssuerRequest(
                name="i", issuer="x", org="o", audiences=["a"], claims=ClaimNames(desk="a\t"), roles=[Role(name="r")]
            ),
            "claims.desk",
            "claims.desk is 'a\\t'; it can have up to 200 printable characters",
        ),
        (
            upstream(when_gone="x" * 301),
            "when_gone",
            "when_gone has 301 characters; it can have up to 300 printable characters",
        ),
        (PutDocumentRequest(collection="a"), "document", "document is missing; give a value"),
        (
            PutDocumentRequest(collection="a", document=Document(id="b"), chunks=[Chunk(number=-1)]),
            "chunks[0].number",
            "chunks[0].number is -1; it can be 0 or more",
        ),
        (
            CreateCollectionRequest(name="a", metadata={"k" * 65: ""}),
            "metadata",
            "metadata has a key that has 65 characters; it must be 1 to 64 characters, none of them NUL",
        ),
        (
            CreateCollectionRequest(name="a", metadata={"k": "x" * 513}),
            "metadata.k",
            "metadata.k has 513 characters; it must be at most 512 characters, none of them NUL",
        ),
        (
            SearchRequest(collection="a", question="q", attributes={"k": Value(string_value="\0")}),
            "attributes.k",
            "attributes.k is '\\x00'; it must be a string of at most 512 characters, none of them NUL",
        ),
        (
            SearchRequest(collection="a", question="q", attributes={"k": Value(number_value=float("inf"))}),
            "attributes.k",
            "attributes.k is inf; a number is from -2^53 to 2^53",
        ),
        (
            SearchRequest(collection="a", question="q", attributes={"k": Value(struct_value=Struct())}),
            "attributes.k",
            "attributes.k must be a string, a number or a boolean",
        ),
    ],
)
def test_an_error_names_the_field_its_value_and_what_would_be_right(message: Message, param: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(message)
    assert caught.value.metadata["param"] == param
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    "message",
    [
        upstream(balancing="ring_hash", credential="vllm_1", connect_ms=60_000, eject_after=0, when_gone="no model"),
        route(methods=["GET"], headers=[HeaderMatch(name="x-a", prefix="a")], split=[Share(weight=0)]),
        Limit(requests_per_minute=1_000_000),
        CreateCollectionRequest(name="a", metadata={"k" * 64: "", "note": "x" * 512}),
        SearchRequest(collection="a", question="q", attributes=to_values({"a": "", "b": -(2**53), "c": False})),
    ],
)
def test_valid_messages_are_accepted(message: Message) -> None:
    validate(message)


def test_an_error_does_not_repeat_a_possible_secret() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(upstream(credential="sk-live!"))
    assert "sk-live" not in caught.value.message
    assert caught.value.message.startswith("credential is not valid; it must be the name of a file")
    with pytest.raises(InvalidRequest) as caught:
        validate(SearchRequest(collection="a", question="secret plan " * 400))
    assert "plan" not in caught.value.message
    assert caught.value.message.startswith("question has 4800 characters; it must be")


def test_ignored_fields_are_not_validated() -> None:
    validate(route(name="rest.limits:remove"), ignore=("name",))


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_every_transport_validates_before_it_calls_the_service(
    profile: Profile, caller: Principal, how: str
) -> None:
    async with hosted(profile, ["load_balancer"], how) as host:
        with (
            acting_for(caller),
            pytest.raises(InvalidRequest, match="connect_ms is -1; it can be") as caught,
        ):
            await host.client(LoadBalancerClient).set_upstream(upstream(connect_ms=-1))
    assert caught.value.metadata["param"] == "connect_ms"
