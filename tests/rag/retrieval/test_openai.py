"""OpenAI's search of a vector store, called with OpenAI's client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import httpx
import openai
import pytest

from drw.kernel.runtime.host import Host
from support.json_types import Json, JsonObject

HEADERS = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "documents:read"}


@pytest.fixture
def how() -> str:
    return "together"


@pytest.fixture
def client(host: Host) -> Callable[..., openai.AsyncOpenAI]:
    """OpenAI's client, through the application of the process."""

    def make(**headers: str) -> openai.AsyncOpenAI:
        web = httpx.AsyncClient(transport=httpx.ASGITransport(app=host.app()))
        return openai.AsyncOpenAI(
            api_key="x",
            base_url="http://drw/v1",
            http_client=cast(Any, web),
            max_retries=0,
            default_headers={**HEADERS, **headers},
        )

    return make


def extra_fields(page: openai.BaseModel) -> JsonObject:
    """Return the fields that are not part of OpenAI's API."""
    return page.model_extra or {}


async def test_results_have_openais_form(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as api:
        page = await api.vector_stores.search("filings", query="What were Apple's total net sales?", max_num_results=2)
    assert (page.object, extra_fields(page)["search_query"]) == (
        "vector_store.search_results.page",
        ["What were Apple's total net sales?"],
    )
    assert len(page.data) == 2
    first = page.data[0]
    assert (first.file_id, first.filename, first.attributes) == ("file-a", "2023 Q3 AAPL.pdf", {"ticker": "AAPL"})
    assert "81,797" in first.content[0].text
    assert 1 >= first.score >= page.data[1].score
    assert not page.has_next_page()


async def test_automatic_filters_are_returned_and_can_be_disabled(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as api:
        page = await api.vector_stores.search("filings", query="Intel's gross margin")
        assert extra_fields(page)["applied_filters"] == [
            {"type": "in", "key": "company", "value": ["Intel Corporation"]}
        ]
        assert {r.file_id for r in page.data} == {"file-i"}
        off = {"auto_filters": False}
        page = await api.vector_stores.search("filings", query="Intel's gross margin", extra_body=off)
        assert extra_fields(page)["applied_filters"] == []
        assert {r.file_id for r in page.data} == {"file-a", "file-i"}


async def test_filters_and_thresholds_narrow_the_results(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as api:
        equal = {"type": "eq", "key": "ticker", "value": "INTC"}
        narrowing: list[Json] = [equal, {"type": "and", "filters": [equal, equal]}]
        for filters in narrowing:
            page = await api.vector_stores.search("filings", query="gross margin", filters=filters)
            assert {r.file_id for r in page.data} == {"file-i"}
        page = await api.vector_stores.search(
            "filings", query="apple net sales", ranking_options={"score_threshold": 0.999}
        )
        assert all(r.score >= 0.999 for r in page.data)
        both = await api.vector_stores.search("filings", query=["apple net sales", "intel gross margin"])
        assert extra_fields(both)["search_query"] == ["apple net sales", "intel gross margin"]
        assert {r.file_id for r in both.data} == {"file-a", "file-i"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": ""}, "query"),
        ({"query": []}, "query"),
        ({"query": " "}, "query must be a string of 1 to 4,000 characters, not only white space"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "filters": {"type": "like", "key": "a", "value": 1}}, "filters.type is 'like'; it can be: eq"),
        ({"query": "x", "filters": {"type": "or", "filters": []}}, "filters.filters must be a list of at least one"),
        ({"query": "x", "extra_body": {"rerank": True}}, "rerank"),
        ({"query": "x", "ranking_options": {"score_threshold": 2}}, "score_threshold"),
        ({"query": "x", "rewrite_query": True}, "rewrite_query"),
    ],
)
async def test_an_invalid_search_is_a_bad_request(
    client: Callable[..., openai.AsyncOpenAI], body: JsonObject, message: str
) -> None:
    async with client() as api:
        with pytest.raises(openai.BadRequestError, match=message):
            await api.vector_stores.search("filings", **body)


async def test_null_fields_are_ignored(client: Callable[..., openai.AsyncOpenAI]) -> None:
    fields = ("max_num_results", "filters", "ranking_options", "rewrite_query", "of_a_later_release")
    async with client() as api:
        page = await api.vector_stores.search("filings", query="apple net sales", extra_body=dict.fromkeys(fields))
        assert page.data


async def test_errors_raise_the_clients_exceptions(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as api:
        with pytest.raises(openai.NotFoundError, match="no collection 'nothing'"):
            await api.vector_stores.search("nothing", query="x")
    async with client(**{"x-drw-desk": "trading"}) as api:
        with pytest.raises(openai.NotFoundError):
            await api.vector_stores.search("filings", query="x")
    async with client(**{"x-drw-scopes": "models:invoke"}) as api:
        with pytest.raises(openai.PermissionDeniedError, match="documents:read"):
            await api.vector_stores.search("filings", query="x")
