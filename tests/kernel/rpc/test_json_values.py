"""JSON values in messages: integers and floats keep their type."""

from __future__ import annotations

import pytest

from drw.api.audit.v1.log_pb2 import ListRecordsResponse, Record
from drw.api.kernel.v1.kernel_pb2 import Json
from drw.api.workflow.v1.orchestration_pb2 import Run, StartRunRequest
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.json_messages import from_json, json_message, json_value, to_json

NUMBERS = {"tokens": 4506, "nano_usd": 2**53 + 1, "share": 3.0, "list": [1, 1.0, -0.5], "none": None, "yes": True}


def typed(value: object) -> object:
    """Return a value with the type of each number, because 1 == 1.0 in Python."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


def test_a_number_keeps_its_type_in_a_message_and_over_the_wire() -> None:
    wire = Record(details=json_message(NUMBERS)).SerializeToString()
    assert typed(json_value(Record.FromString(wire).details)) == typed(NUMBERS)


def test_to_json_returns_the_value_with_its_number_types() -> None:
    response = ListRecordsResponse(records=[Record(index=1, details=json_message(NUMBERS))])
    assert typed(to_json(response)["records"][0]["details"]) == typed(NUMBERS)
    assert typed(to_json(Run(output=json_message(4506)))["output"]) == (int, 4506)


def test_from_json_accepts_the_value_itself() -> None:
    request = from_json({"template": "digest", "inputs": NUMBERS}, StartRunRequest)
    assert typed(json_value(request.inputs)) == typed(NUMBERS)
    run = from_json({"steps": [{"id": "a/0", "output": [7]}]}, Run)
    assert typed(json_value(run.steps[0].output)) == typed([7])


def test_absent_values_stay_absent() -> None:
    assert not from_json({"inputs": None}, StartRunRequest).HasField("inputs")
    assert json_value(Json()) is None
    assert "output" not in to_json(Run())


def test_text_that_is_not_json_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="is not JSON"):
        json_value(Json(text="{"))
