"""The small parts of orchestration: the plan, references, pauses, the list of activities."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from drw.api.workflow.v1.templates_pb2 import Node, Template
from drw.kernel.errors import InvalidRequest, RateLimited, Unavailable
from drw.workflow.orchestration.activities import ACTIVITIES, digest, scopes
from drw.workflow.orchestration.adapters.dbos_engine import _url
from drw.workflow.orchestration.execution import dependency_graph, retries
from drw.workflow.orchestration.execution.expression_rendering import rendered
from drw.workflow.templates.activities import ACTIVITIES as ON_OFFER


def test_what_templates_may_use_is_what_orchestration_can_do() -> None:
    assert ON_OFFER.keys() == ACTIVITIES.keys()
    for name, offered in ON_OFFER.items():
        fields = ACTIVITIES[name].arguments.model_fields
        assert offered.required == {key for key, field in fields.items() if field.is_required()}
        assert offered.optional == {key for key, field in fields.items() if not field.is_required()}
        assert inspect.iscoroutinefunction(ACTIVITIES[name].perform)


def test_a_run_needs_the_scopes_of_all_its_activities() -> None:
    assert scopes(["serving.summarise", "documents.index", "documents.digest"]) == ["documents:write", "models:invoke"]


def test_the_plan_pairs_items_of_the_same_list_and_joins_all_others() -> None:
    both: dict[str, Any] = {"for_each": "${inputs.files}"}
    template = Template(nodes=[Node(id="a", **both), Node(id="b", needs=["a"], **both), Node(id="c", needs=["a", "b"])])
    steps = dependency_graph.steps(template, {"files": ["x", "y"]})
    assert [(s.id, s.item, s.after) for s in steps] == [
        ("a/0", "x", ()),
        ("a/1", "y", ()),
        ("b/0", "x", ("a/0",)),
        ("b/1", "y", ("a/1",)),
        ("c", None, ("a/0", "a/1", "b/0", "b/1")),
    ]


def test_references_take_values_as_they_are_and_texts_take_them_in() -> None:
    scope = {"inputs": {"n": 3, "files": ["x"]}, "steps": {"a": {"output": {"k": None}}}}
    assert rendered({"a": "${inputs.n}", "b": ["${inputs.files}"]}, scope) == {"a": 3, "b": [["x"]]}
    assert rendered("n is ${inputs.n} of ${inputs.files}", scope) == 'n is 3 of ["x"]'
    assert rendered("${steps.a.output.k}", scope) is None
    with pytest.raises(InvalidRequest, match=r"\$\{steps.a.output.j\}: there is no 'j'"):
        rendered("${steps.a.output.j}", scope)


def test_pauses_double_up_to_a_bound_and_only_for_what_may_pass() -> None:
    pauses = [retries.pause(Unavailable("x"), n, 20, 0.5) for n in range(1, 12)]
    for pause, middle in zip(pauses, [0.5, 1, 2, 4, 8, 15, 15, 15, 15, 15, 15], strict=True):
        assert pause is not None and 0.8 * middle <= pause <= 1.2 * middle
    assert retries.pause(Unavailable("x"), 3, 3, 0.5) is None
    assert retries.pause(InvalidRequest("x"), 1, 9, 0.5) is None
    assert retries.pause(RateLimited("x", retry_after="30"), 1, 9, 0.5) == 30
    assert retries.pause(RateLimited("x", retry_after="9999"), 1, 9, 0.5) == 60
    unclear = retries.pause(RateLimited("x", retry_after="soon"), 1, 9, 0.5)
    assert unclear is not None and unclear < 1


def test_a_long_digest_is_cut_between_characters() -> None:
    text = "\u65e5" * 20_000
    assert digest.shortened("short") == "short"
    assert text.startswith(digest.shortened(text))
    assert digest.MOST_TEXT - 3 < len(digest.shortened(text).encode()) <= digest.MOST_TEXT


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("host=/tmp/s dbname=x user=u", "postgresql+psycopg://u@/x?host=%2Ftmp%2Fs"),
        ("postgresql://u:p%40@db:5432/x?sslmode=require", "postgresql+psycopg://u:p%40@/x?host=db&port=5432&sslmode="),
    ],
)
def test_every_form_of_a_connection_string_reaches_the_engine(dsn: str, url: str) -> None:
    assert _url(dsn).startswith(url)
