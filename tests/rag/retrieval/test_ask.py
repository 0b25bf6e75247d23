"""An answer streams after its sources, and says of itself what stands in them and what does not."""

from __future__ import annotations

import orjson
import psycopg
import pytest

from drw.api.rag.v1.retrieval_pb2 import AskRequest, SearchRequest
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import NotFound
from drw.kernel.runtime.host import Host
from rag.retrieval.filings import DoubleServing

QUESTION = "What were Apple's total net sales in the quarter ended July 1, 2023?"


async def ask(host, question=QUESTION, **more):
    """Return the sources, the pieces of text, and the answer."""
    asked = AskRequest(collection="filings", question=question, **more)
    events = [event async for event in host.client(RetrievalClient).ask(asked)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["sources", *["text"] * (len(events) - 2), "answer"]
    return events[0].sources.passages, [event.text for event in events[1:-1]], events[-1].answer


async def test_the_right_filing_comes_first(host: Host) -> None:
    found = await host.client(RetrievalClient).search(SearchRequest(collection="filings", question=QUESTION))
    assert (found.passages[0].document, found.passages[0].page) == ("file-a", 1)
    found = await host.client(RetrievalClient).search(
        SearchRequest(collection="filings", question=QUESTION, attributes=to_values({"ticker": "INTC"}), limit=1)
    )
    assert [p.document for p in found.passages] == ["file-i"]


async def test_an_answer_whose_figures_stand_in_the_cited_passage_is_supported(
    host: Host, serving: DoubleServing
) -> None:
    serving.pieces = ["Total net sales were ", "$81,797 million", " [1]."]
    sources, pieces, answer = await ask(host)
    assert pieces == serving.pieces
    assert answer.text == "Total net sales were $81,797 million [1]."
    assert (answer.supported, answer.incomplete, answer.model) == (True, "", "double-1")
    (citation,) = answer.citations
    assert (citation.number, citation.passage.document, citation.passage.page) == (1, "file-a", 1)
    assert citation.passage.hash == sources[0].hash
    assert citation.quote == "Total net sales $ 81,797 $ 82,959"
    assert citation.quote in citation.passage.text


async def test_a_figure_that_stands_nowhere_is_marked(host: Host, serving: DoubleServing) -> None:
    serving.pieces = ["Total net sales were $91,797 million [1], up 3%."]
    _, _, answer = await ask(host)
    assert not answer.supported
    assert [f.figure for f in answer.unsupported_figures] == ["$91,797 million", "3%"]
    assert [answer.text[f.start : f.end] for f in answer.unsupported_figures] == ["$91,797 million", "3%"]


async def test_a_figure_of_a_passage_that_is_not_cited_is_marked(host: Host, serving: DoubleServing) -> None:
    sources, _, _ = await ask(host, auto_filters=False)
    (intel,) = (n for n, p in enumerate(sources, 1) if "12,949" in p.text)
    (apple,) = (n for n, p in enumerate(sources, 1) if "81,797" in p.text)
    serving.pieces = [f"They were $12,949 million [{apple}]."]
    assert not (await ask(host, auto_filters=False))[2].supported
    serving.pieces = [f"They were $12,949 million [{intel}]."]
    assert (await ask(host, auto_filters=False))[2].supported


async def test_the_sources_are_narrowed_to_the_company_that_the_question_names(host: Host) -> None:
    asked = AskRequest(collection="filings", question=QUESTION)
    first = await anext(host.client(RetrievalClient).ask(asked))
    assert {f.key: list(f.values) for f in first.sources.applied_filters}["company"] == ["Apple Inc."]
    assert {p.document for p in first.sources.passages} == {"file-a"}


async def test_an_answer_without_citations_gets_those_of_its_figures(host: Host, serving: DoubleServing) -> None:
    serving.pieces = ["Apple's total net sales were $81,797 million."]
    _, _, answer = await ask(host)
    assert answer.text == "Apple's total net sales were $81,797 million. [1]"
    assert [c.passage.document for c in answer.citations] == ["file-a"]
    assert answer.supported


async def test_an_answer_that_cannot_be_traced_is_not_supported(host: Host, serving: DoubleServing) -> None:
    serving.pieces = ["Apple did rather well."]
    _, _, answer = await ask(host)
    assert not answer.supported
    assert not answer.citations


async def test_citations_of_passages_that_do_not_exist_are_taken_out(host: Host, serving: DoubleServing) -> None:
    serving.pieces = ["Total net sales were $81,797 million [1] [7][0]."]
    _, _, answer = await ask(host)
    assert answer.text == "Total net sales were $81,797 million [1]."
    assert [c.number for c in answer.citations] == [1]
    serving.pieces = ["Apple did rather well [9]."]
    _, _, answer = await ask(host)
    assert (answer.text, answer.supported) == ("Apple did rather well.", False)


async def test_an_answer_that_is_cut_off_is_marked_as_incomplete(host: Host, serving: DoubleServing) -> None:
    serving.pieces, serving.breaks = ["Total net sales were $81,797 million [1]"], "the engine has stopped"
    _, pieces, answer = await ask(host)
    assert pieces == serving.pieces
    assert answer.text == serving.pieces[0]
    assert answer.incomplete == "the answer was cut off: the engine has stopped"
    serving.breaks, serving.finish = None, "length"
    assert "token limit" in (await ask(host))[2].incomplete


async def test_without_a_model_the_passages_come_with_the_reason(host: Host, serving: DoubleServing) -> None:
    serving.pieces, serving.breaks = [], "the serving service does not answer"
    sources, pieces, answer = await ask(host)
    assert sources
    assert (pieces, answer.text, answer.supported) == ([], "", False)
    assert answer.incomplete == "no answer: the serving service does not answer"


async def test_the_prompt_fits_a_small_context(host: Host, serving: DoubleServing) -> None:
    await ask(host, limit=20, model="small")
    (asked,) = serving.asked
    assert (asked.model, asked.max_tokens, asked.temperature) == ("small", 200, 0)
    assert "Total net sales $ 81,797" in asked.messages[1].content
    assert sum(len(m.content) for m in asked.messages) < 4000


async def test_a_collection_that_is_not_there_is_not_found(host: Host) -> None:
    with pytest.raises(NotFound, match="no collection 'nothing'"):
        await host.client(RetrievalClient).search(SearchRequest(collection="nothing", question="x"))


async def test_the_audit_record_names_passages_by_hash_and_holds_no_text(
    host: Host, serving: DoubleServing, database: str
) -> None:
    serving.pieces = ["Total net sales were $81,797 million [1]."]
    sources, _, _ = await ask(host)
    with psycopg.connect(database) as connection:
        rows = connection.execute("select record from audit.inbox").fetchall()
    records = {r["action"]: r for r in map(_loaded, rows) if r["service"] == "retrieval"}
    assert records.keys() == {"collection.ask", "collection.answer"}
    assert [p["hash"] for p in records["collection.ask"]["details"]["passages"]] == [p.hash for p in sources]
    assert records["collection.answer"]["details"]["cited"] == [sources[0].hash]
    assert "net sales" not in str(rows) and "81,797" not in str(rows)


def _loaded(row):
    return orjson.loads(row[0]) if isinstance(row[0], str | bytes) else row[0]
