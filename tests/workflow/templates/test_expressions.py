"""CEL expressions: values, and bounds on size and cost."""

from __future__ import annotations

from typing import Any

import pytest

from drw.expressions import cel
from drw.expressions.cel import InvalidExpression
from drw.kernel.errors import InvalidRequest, TooLarge

SCOPE = {"inputs": {"n": 3, "names": ["a", "b"]}, "steps": {"a": {"output": {"k": None}}}, "run": {"id": "r"}}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.n + 1", 4),
        ("inputs.n", 3),
        ("double(inputs.n) / 2.0", 1.5),
        ("steps.a.output.k", None),
        ("has(steps.b)", False),
        ("inputs.names.map(x, x + '}')", ["a}", "b}"]),
        ("{'a': [inputs.n, 1.5]}", {"a": [3, 1.5]}),
        ("timestamp('2020-01-01T00:00:00Z')", "2020-01-01T00:00:00Z"),
    ],
)
def test_values_are_json(expression: str, value: Any) -> None:
    result = cel.render(f"${{{expression}}}", SCOPE)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("inputs.m", InvalidExpression, "Key not found"),
        ("1 / 0", InvalidExpression, "divide by zero"),
        ("inputs.n + 'a'", InvalidExpression, "No matching overloads"),
        ("{1: 2}", InvalidExpression, "keys must be strings"),
        ("b'a'", InvalidExpression, "JSON cannot represent"),
        ("now()", InvalidExpression, "undeclared reference"),
        ("1 " + "+ 1" * 40, InvalidExpression, "at most 32"),
        ("'" + "a" * 1000 + "'", InvalidExpression, "at most 1000"),
        ("[" * 50 + "]" * 50, InvalidExpression, "recursion"),
        ("inputs.big + inputs.big", TooLarge, "more than 65536 bytes"),
        ("inputs.list.map(x, inputs.big)", TooLarge, "too costly"),
        ("inputs.list.map(x, inputs.list.map(y, x))", TooLarge, "too costly"),
    ],
)
def test_errors_and_bounds(expression: str, error: type[InvalidRequest], message: str) -> None:
    scope = {"inputs": {"n": 1, "big": "a" * 40_000, "list": list(range(5_000))}}
    with pytest.raises(error, match=message):
        cel.evaluate(expression, scope)


def test_a_text_contains_several_placeholders() -> None:
    assert cel.render("${inputs.n} of ${inputs.names}: ${ {'a': '}'}.a }", SCOPE) == '3 of ["a","b"]: }'
    with pytest.raises(InvalidRequest, match="without its '}'"):
        cel.render("${inputs.n", SCOPE)


def test_the_cost_of_a_comprehension_grows_with_the_elements_that_it_copies() -> None:
    def cost(length: int) -> int:
        return length * (len(f'{{"inputs":{{"list":{items(length)}}}}}') + 12 * (length + 2))

    def items(length: int) -> str:
        return str([0] * length).replace(" ", "")

    expression = "inputs.list.map(x, x)"
    longest = max(length for length in range(2_000) if cost(length) <= 16 * 1024 * 1024)
    assert cel.evaluate(expression, {"inputs": {"list": [0] * longest}}) == [0] * longest
    with pytest.raises(TooLarge, match=f"{longest + 1} iterations over"):
        cel.evaluate(expression, {"inputs": {"list": [0] * (longest + 1)}})


def test_nested_comprehensions_over_short_lists_are_not_costly() -> None:
    topics = [{"sentences": [{"text": "Rates rose. " * 20, "supported": n % 2 == 0} for n in range(10)]}] * 2
    scope = {"steps": {"topics": {"output": topics}}}
    counts = "steps.topics.output.map(topic, topic.sentences.filter(sentence, sentence.supported).size())"
    assert cel.evaluate(counts, scope) == [5, 5]
