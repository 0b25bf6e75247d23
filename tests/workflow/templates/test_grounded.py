"""Activities output the sentences of a text within bounds, and name the source of each quote."""

from __future__ import annotations

import orjson
import pytest

from drw.kernel.errors import InvalidRequest
from drw.workflow.orchestration.activities import Services, StepContext, model_registry
from drw.workflow.orchestration.activities.grounded import MAX_BYTES, NOT_CHECKED, ground
from drw.workflow.orchestration.activities.report import ReportArguments, render_markdown
from support.json_types import Json

TEXT = "Net revenue was USD 61.4 million in the quarter."


@pytest.mark.parametrize(
    ("passage", "source"),
    [
        ({"file": "file-1", "title": "q4.pdf", "page": 3, "text": TEXT}, ("file-1", "q4.pdf", 3)),
        ({"text": TEXT, "page": "three"}, ("", "", 0)),
        (TEXT, ("", "", 0)),
    ],
)
async def test_a_quote_names_its_source(passage: Json, source: tuple[str, str, int]) -> None:
    (sentence,) = await ground(TEXT, [passage])
    assert (sentence["file"], sentence["title"], sentence["page"]) == source
    assert sentence["quote"] == TEXT


async def test_the_sentences_of_a_long_text_are_bounded_and_the_rest_is_marked() -> None:
    text = " ".join(f"Desk number {number} reported no breach of limits." for number in range(500))
    grounded = await ground(text, [text])
    assert len(orjson.dumps(grounded)) < MAX_BYTES + 1000
    assert grounded[0]["supported"]
    assert (grounded[-1]["text"], grounded[-1]["supported"]) == (NOT_CHECKED, False)


def test_a_report_shows_quotes_marks_and_the_nearest_part_of_a_passage() -> None:
    passage = {"title": "q4.pdf", "page": 3, "text": f"Headcount was 214.\n{TEXT}"}
    sentences = [
        {"text": f"# {TEXT}", "supported": True, "quote": TEXT, "title": "q4.pdf", "page": 3},
        {"text": "-4.7 million were lost.", "supported": False},
    ]
    section = {"heading": "net revenue", "sentences": sentences, "passages": [passage]}
    text = render_markdown(ReportArguments.model_validate({"title": "Report", "sections": [section]}))
    quote = f"> {TEXT}\n> — q4.pdf, page 3"
    assert text == "\n\n".join(
        [
            *("# Report", "## net revenue", quote, "_Not supported:_ -4.7 million were lost.", "Passages:"),
            quote.replace("> Net", "> … Net") + "\n",
        ]
    )


async def test_a_platform_without_a_registry_says_so() -> None:
    services = Services(documents=None, serving=None, retrieval=None)  # type: ignore[arg-type]
    arguments = model_registry.VersionArguments(version="fraud@3f9a0c1d2e4b")
    with pytest.raises(InvalidRequest, match="no model registry"):
        await model_registry.version(services, StepContext("run_1", "step", 1), arguments)
