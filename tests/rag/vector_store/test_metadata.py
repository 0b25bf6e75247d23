"""Metadata extraction from documents and questions, and automatic filters of searches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from drw.api.rag.v1.vector_store_pb2 import (
    Chunk,
    CreateCollectionRequest,
    Document,
    ListDocumentsRequest,
    UpdateDocumentAttributesRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.rag.vector_store import metadata
from rag.passages import put, vector
from support.hosting import hosted
from support.json_types import Json, JsonObject

COVER = "Common Stock, $0.00001 par value per share\nHLMT\nThe Nasdaq Stock Market LLC"


def extract(title: str, context: str, text: str = "", **attributes: str) -> dict[str, str]:
    chunks = [Chunk(number=0, page=1, text=text or "x", context=f"{context}\nItem 1"), Chunk(page=2, context=context)]
    return metadata.extract(Document(title=title, attributes=to_values(attributes)), chunks)


def test_a_filing_has_company_ticker_type_and_period() -> None:
    subject = "Helmet Systems, Inc. · Form 10-Q · quarterly period ended July 1, 2023 · 2023 Q3 filing"
    found = extract("2023_Q3 filing.pdf", subject, COVER)
    assert found == {
        "company": "Helmet Systems, Inc.",
        "ticker": "HLMT",
        "document_type": "10-Q",
        "period": "2023-07-01",
        "quarter": "2023 Q3",
    }
    assert set(metadata.name_terms(found)) == {
        "company:helmet systems",
        "company:$HLMT",
        "document_type:10-q",
        "period:2023-07-01",
        "period:2023-07",
        "period:2023q3",
    }


@pytest.mark.parametrize(
    ("title", "context"),
    [
        ("4983.txt", "Microstructural development of human white matter · 4983"),
        ("memo.txt", "Minutes of May 4, 2021 · memo"),
        ("2023 Q3 notes.txt", "Notes on the Apple case · 2023 Q3 notes"),
        ("a.txt", ""),
    ],
)
def test_other_documents_have_no_metadata(title: str, context: str) -> None:
    assert extract(title, context) == {}


def test_attributes_override_extracted_metadata() -> None:
    found = extract("x.pdf", "Helmet Systems, Inc. · Form 10-Q", company="Helm Ltd", year="2023")
    assert found == {"company": "Helm Ltd", "document_type": "10-Q"}
    assert extract("notes.txt", "Notes", ticker="HLMT", period="2023 Q2") == {"ticker": "HLMT", "period": "2023 Q2"}


@pytest.mark.parametrize(
    ("name", "normalised"),
    [
        ("Amazon.Com, Inc.", "amazon"),
        ("The Boeing Company", "boeing"),
        ("Bank of America Corporation", "bank of america"),
        ("SIEMENS AG", "siemens"),
        ("Our Company", ""),
        ("Inc.", ""),
    ],
)
def test_company_names_are_normalised_without_the_legal_form(name: str, normalised: str) -> None:
    assert metadata.company_name(name) == normalised


@pytest.mark.parametrize(
    ("text", "names", "names_not"),
    [
        ("What did Bank of America's CEO say?", {"company:bank of america"}, set()),
        ("What is the target price of Helm?", {"company:helm"}, {"company:target"}),
        ("helmet systems revenue", {"company:helmet systems"}, set()),
        ("AAPL and MSFT margins", {"company:$AAPL", "company:$MSFT"}, set()),
        ("WHAT IS NOW DUE?", set(), {"company:$NOW"}),
        ("the latest 10-Qs or Form 8-K", {"document_type:10-q", "document_type:8-k"}, set()),
        ("in the annual report", {"document_type:10-k"}, {"document_type:10-q"}),
        ("for Q3 2023 and July 1, 2022", {"period:2023q3", "period:2022-07-01"}, {"period:2022-07"}),
        ("in June 2022", {"period:2022-06"}, set()),
        ("1 in 5 million have abnormal PrP positivity.", set(), {"document_type:5-m"}),
    ],
)
def test_a_question_names_companies_types_and_periods(text: str, names: set[str], names_not: set[str]) -> None:
    found = {term for terms in metadata.question_terms(text).values() for term in terms}
    assert names <= found
    assert not names_not & found


FILINGS = [
    ("helm-q2", "Helmet Systems, Inc. · Form 10-Q · period ended April 1, 2023", "2023 Q2 HLMT.pdf"),
    ("helm-q3", "Helmet Systems, Inc. · Form 10-Q · period ended July 1, 2023", "2023 Q3 HLMT.pdf"),
    ("helm-year", "Helmet Systems, Inc. · Form 10-K · year ended December 31, 2022", "2022 HLMT.pdf"),
    ("zinc-q3", "Zinc & Tin PLC · Form 10-Q · period ended June 30, 2023", "2023 Q3 ZTIN.pdf"),
    ("brass-q3", "Brass Corp · Form 10-Q · period ended September 30, 2023", "2023 Q3 BRSS.pdf"),
]
ALL = {document for document, _, _ in FILINGS}


@pytest.fixture
async def store(profile: Profile, caller: Principal) -> AsyncIterator[VectorStoreClient]:
    async with hosted(profile, ["vector_store"], "strict") as host:
        with acting_for(caller):
            store = host.client(VectorStoreClient)
            await store.create_collection(CreateCollectionRequest(name="filings"))
            for document, context, title in FILINGS:
                await store.put_document(put("filings", document, ["net sales rose"], context=context, title=title))
            yield store


async def search_with_filters(store: VectorStoreClient, text: str, **more: Json) -> tuple[set[str], JsonObject]:
    normalised = VectorSearchRequest(collection="filings", text=text, vector=vector("net sales"), **more)
    found = await store.search(normalised)
    return {p.document for p in found.passages}, {f.key: list(f.values) for f in found.applied_filters}


HELM = {"company": ["Helmet Systems, Inc."]}


@pytest.mark.parametrize(
    ("text", "documents", "filters"),
    [
        ("Helmet Systems net sales", {"helm-q2", "helm-q3", "helm-year"}, HELM),
        ("HLMT net sales in Q3 2023", {"helm-q3"}, HELM | {"period": ["2023-07-01"]}),
        ("Helmet Systems net sales in its annual report", {"helm-year"}, HELM | {"document_type": ["10-K"]}),
        (
            "Zinc & Tin against BRSS net sales",
            {"zinc-q3", "brass-q3"},
            {"company": ["Brass Corp", "Zinc & Tin PLC"]},
        ),
        ("net sales in the quarter ended June 30, 2023", {"zinc-q3"}, {"period": ["2023-06-30"]}),
        ("the latest net sales of Helmet Systems", {"helm-q3"}, HELM | {"period": ["2023-07-01"]}),
        (
            "the latest net sales",
            {"helm-q3", "zinc-q3", "brass-q3"},
            {"period": ["2023-06-30", "2023-07-01", "2023-09-30"]},
        ),
        ("net sales of Copper Inc in Q1 1999", ALL, {}),
        ("Brass net sales in Q2 2023", {"brass-q3"}, {"company": ["Brass Corp"]}),
        ("net sales", ALL, {}),
    ],
)
async def test_automatic_filters_apply_the_named_metadata_that_documents_have(
    store: VectorStoreClient, text: str, documents: set[str], filters: JsonObject
) -> None:
    assert await search_with_filters(store, text) == (documents, filters)
    assert await search_with_filters(store, text, no_auto_filters=True) == (ALL, {})


async def test_documents_without_metadata_are_searched_too(store: VectorStoreClient) -> None:
    await store.put_document(put("filings", "memo", ["net sales of Helmet Systems"]))
    assert await search_with_filters(store, "HLMT net sales in Q3 2023") == (
        {"helm-q3", "memo"},
        HELM | {"period": ["2023-07-01"]},
    )


async def test_filter_values_come_from_documents_that_match_the_callers_filter(store: VectorStoreClient) -> None:
    await store.put_document(put("filings", "mine", ["net sales"], company="Ore Ltd", shelf="a"))
    assert await search_with_filters(store, "Brass net sales", attributes=to_values({"shelf": "a"})) == ({"mine"}, {})
    assert await search_with_filters(store, "Ore net sales", attributes=to_values({"shelf": "a"})) == (
        {"mine"},
        {"company": ["Ore Ltd"]},
    )


async def test_changed_attributes_change_the_metadata_at_once(store: VectorStoreClient) -> None:
    change = UpdateDocumentAttributesRequest(collection="filings")
    change.document.id, change.document.attributes_version = "brass-q3", 1
    for name, value in to_values({"company": "Ore Ltd", "period": 2023}).items():
        change.document.attributes[name].CopyFrom(value)
    changed = await store.update_document_attributes(change)
    assert dict(changed.metadata) == {"company": "Ore Ltd", "ticker": "BRSS", "document_type": "10-Q"} | {
        "period": "2023",
        "quarter": "2023 Q3",
    }
    assert await search_with_filters(store, "Ore net sales") == ({"brass-q3"}, {"company": ["Ore Ltd"]})
    assert await search_with_filters(store, "Brass net sales") == (ALL, {})
    change.document.id, change.same_content_as = "copy", "brass-q3"
    await store.update_document_attributes(change)
    assert await search_with_filters(store, "Ore net sales") == ({"brass-q3", "copy"}, {"company": ["Ore Ltd"]})
    change.document.attributes.clear()
    change.document.attributes_version = 2
    await store.update_document_attributes(change)
    assert await search_with_filters(store, "Brass net sales") == ({"copy"}, {"company": ["Brass Corp"]})


async def test_filter_values_come_from_documents_inside_the_callers_walls(
    store: VectorStoreClient, caller: Principal
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    context = "Ore Ltd · Form 8-K · period ended December 31, 2030"
    with acting_for(inside):
        await store.put_document(put("filings", "deal", ["net sales"], context=context))
        assert await search_with_filters(store, "Ore net sales") == ({"deal"}, {"company": ["Ore Ltd"]})
    for text in ("Ore net sales", "net sales in the 8-K", "net sales on December 31, 2030"):
        assert await search_with_filters(store, text) == (ALL, {})
    assert "2030-12-31" not in (await search_with_filters(store, "the latest net sales"))[1]["period"]


async def test_extracted_metadata_is_listed_with_the_document(store: VectorStoreClient) -> None:
    listed = await store.list_documents(ListDocumentsRequest(collection="filings"))
    shown = {d.id: dict(d.metadata) for d in listed.documents}
    assert shown["helm-q3"]["ticker"] == "HLMT"
    assert shown["zinc-q3"]["period"] == "2023-06-30"


async def test_a_title_does_not_outrank_the_passages(store: VectorStoreClient) -> None:
    await store.put_document(put("filings", "titled", ["the weather"], title="Gadolinium pricing Q3 2023.txt"))
    await store.put_document(put("filings", "right", ["the price of gadolinium rose by a tenth in Q3 2023"]))
    normalised = VectorSearchRequest(
        collection="filings", text="gadolinium pricing in Q3 2023", vector=vector("gadolinium")
    )
    assert (await store.search(normalised)).passages[0].document == "right"
