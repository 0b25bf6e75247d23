"""`drw events` and `drw up --bus`: requests that the commands make, and what they print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from drw.cli import bus
from drw.cli.api import Api
from drw.cli.platform.platform import _select_bus
from drw.kernel.errors import InvalidRequest, Unavailable

EVENT = {
    **{"type": "com.drw.ai.run.ended.v1", "subject": "run/run_1", "time": "2026-11-30T09:30:00Z"},
    "data": {"state": "failed"},
}
KEEP_ALIVE = {"event_id": "7", "type": ""}


class DoubleApi:
    """Streams of events, one after another; an exception ends one. Other calls return their answers in order."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, Any]] = []

    def events(self, verb: str, path: str) -> Iterator[Any]:
        self.calls.append((path, None))
        for item in self.answers.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item

    def pages(self, path: str, _: str, limit: int = 0, **query: str) -> Any:
        self.calls.append((path, query))
        return self.answers.pop(0)

    def post(self, path: str, body: Any) -> Any:
        self.calls.append((path, body))
        return self.answers.pop(0)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> DoubleApi:
    api = DoubleApi()
    monkeypatch.setattr(Api, "of", lambda _: api)
    return api


def drw(*args: str) -> Result:
    return CliRunner().invoke(bus.events, args)


def test_tail_prints_events_and_skips_keep_alives(double: DoubleApi) -> None:
    double.answers = [[KEEP_ALIVE, EVENT | {"event_id": "8"}, EVENT | {"event_id": "9"}]]
    result = drw("tail", "--type", "run.ended", "-t", "com.drw.ai.kill.lifted.v1", "--after", "0", "--limit", "2")
    assert result.exit_code == 0, result.output
    (path, _) = double.calls[0]
    assert path == ("/api/v1/events:tail?types=com.drw.ai.run.ended.v1&types=com.drw.ai.kill.lifted.v1&last_event_id=0")
    lines = result.output.splitlines()
    assert len(lines) == 2 and lines[0].split()[0] == "8"
    assert "run.ended" in lines[0] and "run/run_1" in lines[0] and '{"state": "failed"}' in lines[0]


def test_tail_continues_after_the_last_event_of_a_lost_connection(double: DoubleApi) -> None:
    gone = Unavailable("gone")
    double.answers = [[KEEP_ALIVE, EVENT | {"event_id": "8"}, gone], [gone], [EVENT | {"event_id": "9"}]]
    result = drw("tail", "--limit", "2", "--json")
    assert result.exit_code == 0, result.output
    assert [path.partition("last_event_id=")[2] for path, _ in double.calls] == ["", "8", "8"]
    assert result.output.count("run/run_1") == 2


def test_tail_gives_up_without_a_first_answer_and_after_several_losses(double: DoubleApi) -> None:
    gone = Unavailable("gone")
    double.answers = [[gone]]
    assert isinstance(drw("tail").exception, Unavailable) and len(double.calls) == 1
    double.calls.clear()
    double.answers = [[KEEP_ALIVE, gone], *[[gone]] * 20]
    assert isinstance(drw("tail").exception, Unavailable)
    assert len(double.calls) == bus.RECONNECTS


def test_parked_lists_events_with_their_errors(double: DoubleApi) -> None:
    event = EVENT | {"id": "3", "consumer": "orchestration", "error": "ValueError", "redriving": False}
    event["parked_at"] = EVENT["time"]
    double.answers = [[event], []]
    result = drw("parked", "--consumer", "orchestration", "--type", "run.ended")
    assert double.calls == [("/api/v1/events/parked", {"consumer": "orchestration", "type": "com.drw.ai.run.ended.v1"})]
    assert "ValueError" in result.output and "run.ended" in result.output
    assert "no parked events" in drw("parked").output


def test_redrive_sends_ids_or_all(double: DoubleApi) -> None:
    double.answers = [{"events": 2}, {"events": 5}]
    assert "2 events" in drw("redrive", "3", "4").output
    assert "5 events" in drw("redrive", "--all", "--consumer", "orchestration").output
    assert [body for _, body in double.calls] == [
        {"parked": ["3", "4"], "all": False, "consumer": "", "type": ""},
        {"parked": [], "all": True, "consumer": "orchestration", "type": ""},
    ]
    for wrong in (["redrive"], ["redrive", "3", "--all"]):
        assert isinstance(drw(*wrong).exception, InvalidRequest)


VARIABLES = ("DRW__BUS__ADAPTER", "DRW__BUS__KAFKA__BOOTSTRAP", "DRW__BUS__PUBSUB__PROJECT")


@pytest.mark.parametrize(
    ("bus_", "address", "expected"),
    [
        ("", "", [None, None, None]),
        ("valkey", "", ["valkey", None, None]),
        ("kafka", "127.0.0.1:9092", ["kafka", "127.0.0.1:9092", None]),
        ("kafka", "", ["kafka", None, None]),
        ("pubsub", "my-project", ["pubsub", None, "my-project"]),
    ],
)
def test_up_selects_the_bus_for_all_processes(
    bus_: str, address: str, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    _select_bus(bus_, address)
    assert [os.environ.get(name) for name in VARIABLES] == expected


@pytest.mark.parametrize("bus_", ["", "valkey", "rabbitmq"])
def test_up_refuses_an_address_without_its_bus(bus_: str) -> None:
    with pytest.raises(InvalidRequest, match="needs --bus kafka or --bus pubsub"):
        _select_bus(bus_, "127.0.0.1:9092")
