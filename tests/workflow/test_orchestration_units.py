"""Unit tests of orchestration: dependency graph, expressions, retry delays, activities, connection strings."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from drw.api.workflow.v1.orchestration_pb2 import AMBIGUOUS, BUDGET, PERMANENT, POLICY, TRANSIENT
from drw.api.workflow.v1.templates_pb2 import Node
from drw.billing.reservations.errors import INSUFFICIENT_QUOTA, InsufficientQuota
from drw.expressions.cel import render
from drw.kernel.errors import (
    Conflict,
    DeadlineExceeded,
    DrwError,
    InternalError,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from drw.killswitch.watch import Killed
from drw.workflow.orchestration.activities import ACTIVITIES, digest, scopes
from drw.workflow.orchestration.adapters.dbos_engine import _sqlalchemy_url
from drw.workflow.orchestration.execution import dependency_graph, failures, retries
from drw.workflow.orchestration.execution.block_execution import LoopArguments, MapArguments
from drw.workflow.orchestration.execution.waiting import WAITING
from drw.workflow.templates.activities import ACTIVITIES as TEMPLATE_ACTIVITIES
from drw.workflow.templates.activities import ARGUMENTS_OF_CONTROL


def test_templates_and_orchestration_declare_the_same_activities() -> None:
    models = {name: activity.arguments for name, activity in ACTIVITIES.items()}
    models |= {name: arguments for name, (arguments, _) in WAITING.items()}
    assert TEMPLATE_ACTIVITIES.keys() == models.keys()
    models |= {"map": MapArguments, "loop": LoopArguments}
    for name, declared in {**TEMPLATE_ACTIVITIES, **ARGUMENTS_OF_CONTROL}.items():
        fields = models[name].model_fields if name in models else {}
        assert set(declared.required) == {key for key, field in fields.items() if field.is_required()}
        assert set(declared.optional) == {
            field.alias or key for key, field in fields.items() if not field.is_required()
        }
    assert all(inspect.iscoroutinefunction(activity.perform) for activity in ACTIVITIES.values())


def test_a_run_requires_the_scopes_of_all_its_activities() -> None:
    assert scopes(["serving.summarise", "documents.index", "documents.digest"]) == ["documents:write", "models:invoke"]


def test_steps_of_the_same_list_depend_on_the_same_item() -> None:
    for_each: dict[str, Any] = {"for_each": "${inputs.files}"}
    nodes = [Node(id="a", **for_each), Node(id="b", needs=["a"], **for_each), Node(id="c", needs=["a", "b"])]
    steps = dependency_graph.build_steps(nodes, {"files": ["x", "y"]})
    assert [(s.id, s.item, s.dependencies) for s in steps] == [
        ("a/0", "x", ()),
        ("a/1", "y", ()),
        ("b/0", "x", ("a/0",)),
        ("b/1", "y", ("a/1",)),
        ("c", None, ("a/0", "a/1", "b/0", "b/1")),
    ]


def test_a_single_reference_keeps_its_type_and_text_interpolates_it() -> None:
    scope = {"inputs": {"n": 3, "files": ["x"]}, "steps": {"a": {"output": {"k": None}}}}
    assert render({"a": "${inputs.n}", "b": ["${inputs.files}"]}, scope) == {"a": 3, "b": [["x"]]}
    assert render("n is ${inputs.n} of ${inputs.files}", scope) == 'n is 3 of ["x"]'
    assert render("${steps.a.output.k}", scope) is None
    with pytest.raises(InvalidRequest, match=r"\$\{steps.a.output.j\}: Key not found"):
        render("${steps.a.output.j}", scope)


def test_retry_delays_double_up_to_a_limit_for_transient_failures() -> None:
    delays = [retries.retry_delay(Unavailable("x"), TRANSIENT, n, 20, 0.5) for n in range(1, 12)]
    for delay, expected in zip(delays, [0.5, 1, 2, 4, 8, 15, 15, 15, 15, 15, 15], strict=True):
        assert delay is not None and 0.8 * expected <= delay <= 1.2 * expected
    assert len(set(delays)) == len(delays)  # jitter
    assert retries.retry_delay(Unavailable("x"), TRANSIENT, 3, 3, 0.5) is None


@pytest.mark.parametrize(
    ("failure_class", "after", "least"),
    [
        (TRANSIENT, "30", 30),
        (TRANSIENT, "901", None),
        (TRANSIENT, "soon", 0.4),
        (BUDGET, "30", 30),
        (BUDGET, "901", None),
        (BUDGET, "0", None),
        (PERMANENT, "30", None),
        (POLICY, "30", None),
        (AMBIGUOUS, "30", None),
    ],
)
def test_retry_after_is_honoured_by_class(failure_class: Any, after: str, least: float | None) -> None:
    delay = retries.retry_delay(RateLimited("x", retry_after=after), failure_class, 1, 9, 0.5)
    assert delay is None if least is None else delay is not None and least <= delay <= 1.25 * max(least, 0.5)


@pytest.mark.parametrize(
    ("error", "repeatable", "once"),
    [
        (InvalidRequest("x"), PERMANENT, PERMANENT),
        (InvalidRequest("x", code="content_filter"), POLICY, POLICY),
        (NotFound("x"), PERMANENT, PERMANENT),
        (Conflict("x"), PERMANENT, PERMANENT),
        (Unauthenticated("x"), POLICY, POLICY),
        (Killed("x"), POLICY, POLICY),
        (RateLimited("x"), TRANSIENT, TRANSIENT),
        (RateLimited("x", retry_after="never"), PERMANENT, PERMANENT),
        (InsufficientQuota("x", code=INSUFFICIENT_QUOTA, retry_after="never"), BUDGET, BUDGET),
        (Unavailable("x"), TRANSIENT, AMBIGUOUS),
        (DeadlineExceeded("x"), TRANSIENT, AMBIGUOUS),
        (InternalError("x"), PERMANENT, AMBIGUOUS),
        (Unimplemented("x"), PERMANENT, PERMANENT),
        (DrwError("x"), PERMANENT, AMBIGUOUS),
    ],
)
def test_every_error_has_a_class(error: DrwError, repeatable: int, once: int) -> None:
    assert failures.classify(error, repeatable=True) == repeatable
    assert failures.classify(error, repeatable=False) == once


@pytest.mark.parametrize(
    ("status", "headers", "repeatable", "once"),
    [
        (400, {}, PERMANENT, PERMANENT),
        (401, {}, POLICY, POLICY),
        (402, {}, BUDGET, BUDGET),
        (403, {}, POLICY, POLICY),
        (404, {}, PERMANENT, PERMANENT),
        (408, {}, TRANSIENT, AMBIGUOUS),
        (409, {}, PERMANENT, PERMANENT),
        (418, {}, PERMANENT, PERMANENT),
        (425, {}, TRANSIENT, TRANSIENT),
        (429, {"retry-after": "7"}, TRANSIENT, TRANSIENT),
        (451, {}, POLICY, POLICY),
        (500, {}, TRANSIENT, AMBIGUOUS),
        (501, {}, PERMANENT, PERMANENT),
        (502, {}, TRANSIENT, AMBIGUOUS),
        (503, {}, TRANSIENT, AMBIGUOUS),
        (504, {}, TRANSIENT, AMBIGUOUS),
        (599, {}, TRANSIENT, AMBIGUOUS),
    ],
)
def test_every_http_status_has_a_class(status: int, headers: dict[str, str], repeatable: int, once: int) -> None:
    error = failures.error_from_http(status, "x", headers)
    assert failures.classify(error, repeatable=True) == repeatable
    assert failures.classify(error, repeatable=False) == once
    assert error.metadata.get("retry_after") == headers.get("retry-after")


def test_retry_after_is_seconds_or_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    seconds = failures.retry_after(in_a_minute)
    assert seconds is not None and 50 < seconds <= 60
    assert failures.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [failures.retry_after(value) for value in ("12", "", "soon", "-1")] == [12, None, None, None]
    quota = failures.error_from_http(429, "x", {}, code="insufficient_quota")
    assert failures.classify(quota, repeatable=True) == BUDGET


def test_a_long_digest_is_truncated_between_characters() -> None:
    text = "\u65e5" * 20_000
    assert digest.truncate("short") == "short"
    assert text.startswith(digest.truncate(text))
    assert digest.MAX_TEXT_BYTES - 3 < len(digest.truncate(text).encode()) <= digest.MAX_TEXT_BYTES


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("host=/tmp/s dbname=x user=u", "postgresql+psycopg://u@/x?host=%2Ftmp%2Fs"),
        ("postgresql://u:p%40@db:5432/x?sslmode=require", "postgresql+psycopg://u:p%40@/x?host=db&port=5432&sslmode="),
    ],
)
def test_every_form_of_a_connection_string_is_converted_for_the_engine(dsn: str, url: str) -> None:
    assert _sqlalchemy_url(dsn).startswith(url)
