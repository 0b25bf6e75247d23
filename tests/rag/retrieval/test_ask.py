"""Answers: sources first, then the text, then the verified citations and figures."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import psycopg
import pytest

from drw.api.rag.v1.retrieval_pb2 import Answer, AskRequest, SearchRequest
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel.attributes import to_values
from drw.kernel.errors import NotFound
from drw.kernel.runtime.host import Host
from rag.retrieval.filings import DoubleServing
from support.json_types import Json, JsonObject

QUESTION = "What were Apple's total net sales in the quarter ended July 1, 2023?"


async def ask(host: Host, question: str = QUESTION, **more: Json) -> tuple[Sequence[Passage], list[str], Answer]:
    """Return the sources, the text chunks, and the answer."""
    request = AskRequest(collection="filings", question=question, **more)
    events = [event async for event in host.client(RetrievalClient).ask(request)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["sources", *["text"] * (len(events) - 2), "answer"]
    return events[0].sources.passages, [event.text for event in events[1:-1]], events[-1].answer


async def test_search_ranks_the_matching_filing_first(host: Host) -> None:
    found = await host.client(RetrievalClient).search(SearchRequest(collection="filings", question=QUESTION))
    assert (found.passages[0].document, found.passages[0].page) == ("file-a", 1)
    found = await host.client(RetrievalClient).search(
        SearchRequest(collection="filings", question=QUESTION, attributes=to_values({"ticker": "INTC"}), limit=1)
    )
    assert [p.document for p in found.passages] == ["file-i"]


async def test_an_answer_with_figures_of_the_cited_passage_is_supported(host: Host, serving: DoubleServing) -> None:
    serving.texts = ["Total net sales were ", "$81,797 million", " [1]."]
    sources, texts, answer = await ask(host)
    assert texts == serving.texts
    assert answer.text == "Total net sales were $81,797 million [1]."
    assert (answer.supported, answer.incomplete, answer.model) == (True, "", "double-1")
    (citation,) = answer.citations
    assert (citation.number, citation.passage.document, citation.passage.page) == (1, "file-a", 1)
    assert citation.passage.hash == sources[0].hash
    assert citation.quote == "Total net sales $ 81,797 $ 82,959"
    assert citation.quote in citation.passage.text


async def test_a_figure_in_no_passage_is_unsupported(host: Host, serving: DoubleServing) -> None:
    serving.texts = ["Total net sales were $91,797 million [1], up 3%."]
    _, _, answer = await ask(host)
    assert not answer.supported
    assert [f.figure for f in answer.unsupported_figures] == ["$91,797 million", "3%"]
    assert [answer.text[f.start : f.end] for f in answer.unsupported_figures] == ["$91,797 million", "3%"]


async def test_a_figure_of_an_uncited_passage_is_unsupported(host: Host, serving: DoubleServing) -> None:
    sources, _, _ = await ask(host, auto_filters=False)
    (intel,) = (n for n, p in enumerate(sources, 1) if "12,949" in p.text)
    (apple,) = (n for n, p in enumerate(sources, 1) if "81,797" in p.text)
    serving.texts = [f"They were $12,949 million [{apple}]."]
    assert not (await ask(host, auto_filters=False))[2].supported
    serving.texts = [f"They were $12,949 million [{intel}]."]
    assert (await ask(host, auto_filters=False))[2].supported


async def test_sources_are_filtered_by_the_company_that_the_question_names(host: Host) -> None:
    request = AskRequest(collection="filings", question=QUESTION)
    first = await anext(host.client(RetrievalClient).ask(request))
    assert {f.key: list(f.values) for f in first.sources.applied_filters}["company"] == ["Apple Inc."]
    assert {p.document for p in first.sources.passages} == {"file-a"}


async def test_an_answer_without_citations_cites_the_passages_with_its_figures(
    host: Host, serving: DoubleServing
) -> None:
    serving.texts = ["Apple's total net sales were $81,797 million."]
    _, _, answer = await ask(host)
    assert answer.text == "Apple's total net sales were $81,797 million. [1]"
    assert [c.passage.document for c in answer.citations] == ["file-a"]
    assert answer.supported


async def test_an_answer_without_a_source_is_not_supported(host: Host, serving: DoubleServing) -> None:
    serving.texts = ["Apple did rather well."]
    _, _, answer = await ask(host)
    assert not answer.supported
    assert not answer.citations


async def test_citations_of_missing_passages_are_removed(host: Host, serving: DoubleServing) -> None:
    serving.texts = ["Total net sales were $81,797 million [1] [7][0]."]
    _, _, answer = await ask(host)
    assert answer.text == "Total net sales were $81,797 million [1]."
    assert [c.number for c in answer.citations] == [1]
    serving.texts = ["Apple did rather well [9]."]
    _, _, answer = await ask(host)
    assert (answer.text, answer.supported) == ("Apple did rather well.", False)


async def test_a_truncated_answer_is_incomplete(host: Host, serving: DoubleServing) -> None:
    serving.texts, serving.error = ["Total net sales were $81,797 million [1]"], "the engine has stopped"
    _, texts, answer = await ask(host)
    assert texts == serving.texts
    assert answer.text == serving.texts[0]
    assert answer.incomplete == "the answer was cut off: the engine has stopped"
    serving.error, serving.finish = None, "length"
    assert "token limit" in (await ask(host))[2].incomplete


async def test_without_a_model_the_sources_and_the_reason_are_returned(host: Host, serving: DoubleServing) -> None:
    serving.texts, serving.error = [], "the serving service does not answer"
    sources, texts, answer = await ask(host)
    assert sources
    assert (texts, answer.text, answer.supported) == ([], "", False)
    assert answer.incomplete == "no answer: the serving service does not answer"


async def test_the_prompt_fits_a_small_context(host: Host, serving: DoubleServing) -> None:
    await ask(host, limit=20, model="small")
    (request,) = serving.requests
    assert (request.model, request.max_tokens, request.temperature) == ("small", 200, 0)
    assert "Total net sales $ 81,797" in request.messages[1].content
    assert sum(len(m.content) for m in request.messages) < 4000


async def test_a_missing_collection_is_not_found(host: Host) -> None:
    with pytest.raises(NotFound, match="no collection 'nothing'"):
        await host.client(RetrievalClient).search(SearchRequest(collection="nothing", question="x"))


async def test_the_audit_record_has_hashes_of_passages_and_no_text(
    host: Host, serving: DoubleServing, database: str
) -> None:
    serving.texts = ["Total net sales were $81,797 million [1]."]
    sources, _, _ = await ask(host)
    with psycopg.connect(database) as connection:
        rows = connection.execute("select record from audit.inbox").fetchall()
    records = {r["action"]: r for r in map(_loaded, rows) if r["service"] == "retrieval"}
    assert records.keys() == {"collection.ask", "collection.answer"}
    assert [p["hash"] for p in records["collection.ask"]["details"]["passages"]] == [p.hash for p in sources]
    assert records["collection.answer"]["details"]["cited"] == [sources[0].hash]
    assert "net sales" not in str(rows) and "81,797" not in str(rows)


def _loaded(row: tuple[str]) -> JsonObject:
    return orjson.loads(row[0]) if isinstance(row[0], str | bytes) else row[0]
