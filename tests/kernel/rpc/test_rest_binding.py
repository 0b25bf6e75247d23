"""REST: requests are read from path, query, body and headers; invalid ones are rejected with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import NoReturn

import httpx
import orjson
import pytest

from drw.api.audit.v1 import log_pb2, log_rpc
from drw.api.audit.v1.log_pb2 import (
    GetCheckpointRequest,
    GetProofRequest,
    ListRecordsRequest,
    ListRecordsResponse,
    Proof,
    Verification,
    VerifyRequest,
)
from drw.api.gateway.v1 import authentication_pb2, authentication_rpc
from drw.api.gateway.v1.authentication_pb2 import ListKeysRequest, ListKeysResponse
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import SCOPES
from drw.kernel.rpc.http import rest
from drw.kernel.rpc.http import server as http_server
from support.json_types import Json, JsonObject

HEADERS = {"x-drw-key": "k", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": " ".join(SCOPES)}


class DoubleLog(log_rpc.Log):
    """Records the requests."""

    def __init__(self) -> None:
        self.requests: list[object] = []

    async def list_records(self, request: ListRecordsRequest, /) -> ListRecordsResponse:
        self.requests.append(request)
        return log_pb2.ListRecordsResponse(records=[log_pb2.Record(index=1 << 60)])

    async def get_proof(self, request: GetProofRequest, /) -> Proof:
        self.requests.append(request)
        return log_pb2.Proof(index=request.index)

    async def verify(self, request: VerifyRequest, /) -> Verification:
        self.requests.append(request)
        if request.earlier_note == "break":
            raise ValueError("secret")
        return log_pb2.Verification(ok=True)


@pytest.fixture
def log() -> DoubleLog:
    return DoubleLog()


@pytest.fixture
async def web(log: DoubleLog) -> AsyncIterator[httpx.AsyncClient]:
    app = http_server.app(rest.routes(log), "test")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://drw", headers=HEADERS
    ) as client:
        yield client


def error_message(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status
    return response.json()["error"]["message"]


async def test_a_request_is_read_from_path_query_and_body(web: httpx.AsyncClient, log: DoubleLog) -> None:
    assert (await web.get("/api/v1/audit/records?page_size=7&action=a%20b")).status_code == 200
    assert (await web.get("/api/v1/audit/records/12/proof")).json()["index"] == 12
    assert (await web.post("/api/v1/audit:verify", json={"earlier_note": "n"})).json()["ok"] is True
    assert (await web.post("/api/v1/audit:verify")).status_code == 200
    assert log.requests == [
        log_pb2.ListRecordsRequest(page_size=7, action="a b"),
        log_pb2.GetProofRequest(index=12),
        log_pb2.VerifyRequest(earlier_note="n"),
        log_pb2.VerifyRequest(),
    ]


async def test_large_integers_are_numbers(web: httpx.AsyncClient) -> None:
    response = await web.get("/api/v1/audit/records")
    assert orjson.loads(response.content)["records"][0]["index"] == 1 << 60


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("pagesize=7", "'pagesize' is not a parameter; there are: action, actor, desk"),
        ("page_size=many", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("action=a&action=b", "'action' is given twice"),
    ],
)
async def test_an_error_names_the_invalid_parameter(
    web: httpx.AsyncClient, log: DoubleLog, query: str, message: str
) -> None:
    assert message in error_message(await web.get(f"/api/v1/audit/records?{query}"))
    assert log.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"earlier": 1}', "'earlier' is not a field; there are: earlier_note"),
        (b'{"earlier_note": 1}', "earlier_note"),
        (b'{"earlier_note": ', "the body is not JSON"),
        (b"[]", "the body must be a JSON object"),
        (b'{"earlier_note": NaN}', "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
    ],
)
async def test_an_invalid_body_is_rejected_with_the_reason(
    web: httpx.AsyncClient, log: DoubleLog, body: bytes, message: str
) -> None:
    assert message in error_message(await web.post("/api/v1/audit:verify", content=body))
    assert log.requests == []


async def test_a_path_parameter_that_is_not_a_number_is_rejected(web: httpx.AsyncClient) -> None:
    assert "index" in error_message(await web.get("/api/v1/audit/records/first/proof"))


async def test_unsupported_methods_and_unknown_paths_are_rejected(web: httpx.AsyncClient) -> None:
    response = await web.delete("/api/v1/audit/records")
    assert response.status_code == 405
    assert error_message(await web.get("/api/v1/audit"), 404) == "there is nothing at GET /api/v1/audit"


async def test_an_endless_body_is_read_only_up_to_the_limit(web: httpx.AsyncClient, log: DoubleLog) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b" " * (1 << 16)

    async with asyncio.timeout(30):
        response = await web.post("/api/v1/audit:verify", content=endless())
    assert error_message(response, 413) == "the body has more than 1048576 bytes, the maximum"
    assert sent <= rest.MAX_BODY_BYTES + (2 << 16)


async def test_an_unexpected_error_does_not_expose_details(web: httpx.AsyncClient) -> None:
    message = error_message(await web.post("/api/v1/audit:verify", json={"earlier_note": "break"}), 500)
    assert message == "unexpected error in log.Verify"


async def test_a_temporary_error_has_retry_after() -> None:
    class DoubleBusy(log_rpc.Log):
        async def get_checkpoint(self, request: GetCheckpointRequest, /) -> NoReturn:
            raise Unavailable("not now", retry_after="7")

    app = http_server.app(rest.routes(DoubleBusy()), "test")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://drw", headers=HEADERS) as web:
        response = await web.get("/api/v1/audit/checkpoint")
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")


async def test_a_boolean_in_the_query_is_true_or_false() -> None:
    requests = []

    class DoubleAuthentication(authentication_rpc.Authentication):
        async def list_keys(self, request: ListKeysRequest, /) -> ListKeysResponse:
            requests.append(request.all)
            return authentication_pb2.ListKeysResponse()

    app = http_server.app(rest.routes(DoubleAuthentication()), "test")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://drw", headers=HEADERS) as web:
        for value in ("true", "1", "false", "No"):
            assert (await web.get(f"/api/v1/keys?all={value}")).status_code == 200
        assert error_message(await web.get("/api/v1/keys?all=maybe")) == "all is 'maybe'; it can be true or false"
    assert requests == [True, True, False, False]


async def test_platform_metrics_are_visible_internally_and_with_platform_read(web: httpx.AsyncClient) -> None:
    lacking = {**HEADERS, "x-drw-scopes": "models:read"}
    assert (await web.get("/metrics/test", headers=lacking)).status_code == 403
    await web.get("/api/v1/audit/records")
    response = await web.get("/metrics/test")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'drw_call_seconds_count{code="200",method="GET",service="http"}' in response.text
    app = http_server.app([], "test")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://drw") as nobody:
        assert (await nobody.get("/metrics/test")).status_code == 200
        assert (await nobody.get("/healthz")).text == "ok\n"


async def test_a_disconnect_during_the_request_body_is_not_a_server_error(
    log: DoubleLog, caplog: pytest.LogCaptureFixture
) -> None:
    app = http_server.app(rest.routes(log), "test")
    messages: Iterator[JsonObject] = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[object] = []

    async def receive() -> JsonObject:
        return next(messages)

    async def send(message: MutableMapping[str, Json]) -> None:
        sent.append(message)

    headers = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/audit:verify", "headers": headers, "query_string": b""}
    with caplog.at_level("INFO"):
        await app(scope, receive, send)
    assert sent == []
    assert [vars(r)["fields"]["code"] for r in caplog.records if r.name == "drw.request"] == ["499"]


async def test_a_request_that_breaks_a_contract_rule_never_reaches_the_service() -> None:
    class DoubleAuthentication(authentication_rpc.Authentication):
        async def put_org(self, request: authentication_pb2.PutOrgRequest, /) -> authentication_pb2.PutOrgResponse:
            raise AssertionError("the service was called")

    app = http_server.app(rest.routes(DoubleAuthentication()), "test")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://drw", headers=HEADERS
    ) as client:
        response = await client.put("/api/v1/orgs/acme", json={"walls": ["rates", "no wall"]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "walls[1]"
    assert error_message(response).startswith("walls[1] is 'no wall'; it must be lower-case letters")
