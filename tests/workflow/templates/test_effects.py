"""Validation of templates with `http`, `event`, `compensate`, secrets and idempotency keys: line, column and cause."""

from __future__ import annotations

import pytest

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Workflow
from drw.workflow.templates import parser
from drw.workflow.templates.checks.environment_check import Environment

VALID = """
name: orders
description: Places an order, and removes it if a later step fails.
inputs:
  symbol: {type: STRING, required: true}
nodes:
  - id: place
    uses: http
    idempotency_key: ${inputs.symbol}-${run.id}
    with:
      url: https://api.broker.example/orders
      method: POST
      headers: {Authorization: "Bearer ${secrets.BROKER_TOKEN}"}
      body: {symbol: "${inputs.symbol}"}
    compensate:
      uses: http
      with:
        url: https://api.broker.example/orders/${steps.place.output.body.id}
        method: DELETE
        headers: {Authorization: "Bearer ${secrets.BROKER_TOKEN}"}
  - id: tell
    uses: event
    needs: [place]
    with:
      name: order.placed
      data: {symbol: "${inputs.symbol}"}
output: ${steps.place.output.status}
"""
SETTINGS = Workflow.model_validate(
    {
        "http_hosts": ["api.broker.example", "other.example"],
        "events": {"order.placed": {}},
        "secrets": [
            {"name": "BROKER_TOKEN", "org": "acme", "variable": "T", "hosts": ["api.broker.example"]},
            {"name": "BROKER_TOKEN", "org": "acme", "desk": "fx", "variable": "T"},
            {"name": "RIVAL_TOKEN", "org": "rival", "variable": "T", "hosts": ["api.broker.example"]},
        ],
    }
)
ENVIRONMENT = Environment.of(SETTINGS, Principal("acme", "rates", "key_1", frozenset()))


def test_the_parsed_node_has_its_key_and_compensation() -> None:
    template = parser.parse(VALID.encode(), "orders.yaml", ENVIRONMENT)
    (place, tell) = template.nodes
    assert place.idempotency_key == "${inputs.symbol}-${run.id}"
    assert (place.compensate.uses, place.compensate.max_attempts) == ("http", 8)
    assert not tell.HasField("compensate")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("      url: https://api.broker.example/orders\n", "", r"7:5: node 'place': 'http' needs 'url' under 'with'"),
        ("      method: POST", "      methd: POST", r"12:7: 'http' does not accept 'methd'; did you mean 'method'"),
        ("      body: {", "      expect: ok\n      body: {", r"14:15: this is of the type string; it must be list"),
        ("    compensate:\n      uses: http", "    compensate:\n      uses: httpp", r"16:13: 'httpp' is not an act"),
        ("    compensate:\n      uses: http", "    compensate:\n      uses: wait", r"16:13: 'wait' is not an act"),
        ("        method: DELETE", "        mode: x", r"19:9: 'http' does not accept 'mode'"),
        ("    compensate:\n", "    compensate:\n      until: x\n", r"16:7: unknown key 'until'; there are"),
        (
            "place.output.body.id",
            "tell.output.event",
            r"18:\d+: \$\{steps.tell.output.event\}: 'tell' is not a dependency",
        ),
        ("place.output.body.id", "place.output.id", r"18:\d+: .*the output of 'place' has no 'id'"),
        ("    uses: event\n", "    uses: wait\n    idempotency_key: k\n", r"23:5: 'wait' does not accept 'idem"),
        ("${inputs.symbol}-", "${inputs.symbl}-", r"9:24: \$\{inputs.symbl\}: there is no input 'symbl'"),
        ("idempotency_key: ${inputs.symbol}-${run.id}", "idempotency_key: ${1 + 1}", r"9:22: .* it must be string"),
        ("      method: POST", "      method: ${secrets.BROKER_TOKEN}", r"12:17: secrets can only be in 'headers'"),
        ('data: {symbol: "${inputs.symbol}"}', 'data: {t: "${secrets.BROKER_TOKEN}"}', r"26:20: secrets can only"),
        ("output: ${steps.place.output.status}", "output: ${secrets.BROKER_TOKEN}", r"27:11: secrets can only be in"),
        (
            'body: {symbol: "${inputs.symbol}"}',
            "body: ${'x' + secrets.BROKER_TOKEN}",
            r"14:21: a secret stands alone, as in 'Bearer \$\{secrets.NAME\}'",
        ),
        (
            'body: {symbol: "${inputs.symbol}"}',
            "body: ${secrets.BROKER_TOKEN.size()}",
            r"14:15: a secret stands alone",
        ),
        ('body: {symbol: "${inputs.symbol}"}', "body: ${secrets}", r"14:15: a secret stands alone"),
    ],
)
def test_errors_name_the_location_and_the_cause(old: str, new: str, message: str) -> None:
    assert old in VALID
    with pytest.raises(InvalidRequest, match=message):
        parser.parse(VALID.replace(old, new).encode(), "orders.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("api.broker.example/orders\n", "api.brokr.example/orders\n", r"11:12: 'https://api.brokr.example' is not in"),
        ("url: https://api.broker.example/orders\n", "url: http://api.broker.example/\n", r"11:12: .* is not in"),
        ("url: https://api.broker.example/orders\n", "url: https://169.254.169.254/\n", r"11:12: .* is not in"),
        ("https://api.broker.example/orders/$", "https://evil.example/o/$", r"18:14: 'https://evil.example' is not in"),
        ("name: order.placed", "name: order.place", r"25:13: the event 'order.place' is not declared; did you mean"),
        ("BROKER_TOKEN}", "RIVAL_TOKEN}", r"13:42: the desk has no secret 'RIVAL_TOKEN'"),
        ("BROKER_TOKEN}", "BROKR_TOKEN}", r"13:42: the desk has no secret 'BROKR_TOKEN'; did you mean 'BROKER_TOKEN'"),
        (
            "https://api.broker.example/orders\n",
            "https://other.example/\n",
            r"13:42: the secret 'BROKER_TOKEN' cannot be sent to 'other.example'",
        ),
    ],
)
def test_what_the_operator_has_not_declared_is_refused(old: str, new: str, message: str) -> None:
    assert old in VALID
    source = VALID.replace(old, new, 1).encode()
    assert parser.validate(source, "orders.yaml") == []  # without an environment
    with pytest.raises(InvalidRequest, match=message):
        parser.parse(source, "orders.yaml", ENVIRONMENT)


def test_a_secret_of_the_desk_wins_over_that_of_the_org() -> None:
    desk = Environment.of(SETTINGS, Principal("acme", "fx", "key_1", frozenset()))
    (problem, _) = parser.validate(VALID.encode(), "orders.yaml", desk)
    assert "cannot be sent to 'api.broker.example'" in problem.message
    rival = Environment.of(SETTINGS, Principal("rival", "rates", "key_1", frozenset()))
    (problem, _) = parser.validate(VALID.encode(), "orders.yaml", rival)
    assert problem.message == "the desk has no secret 'BROKER_TOKEN'; did you mean 'RIVAL_TOKEN'?"
