"""Field rules of the workflow contracts: every transport rejects a request before the service sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drw.api.workflow.v1.orchestration_pb2 import CancelRunRequest, GetRunRequest, ListRunsRequest, StartRunRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.schedules_pb2 import (
    CreateScheduleRequest,
    GetScheduleRequest,
    PreviewScheduleRequest,
    ScheduleSpec,
)
from drw.api.workflow.v1.state_pb2 import RunEvent, WatchRunRequest
from drw.api.workflow.v1.state_rpc import StateClient
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from support.field_rules import InvalidCall, InvalidHttpRequest, check_calls, check_http
from workflow.harness import workflow_harness

ID = "it can have 1 to 200 printable characters"
TEMPLATE = "it must be the name of a template, of at most 63 characters"
VERSION = "it must be the SHA-256 of a template's source, in hex"
LAST_EVENT = "it must be the number of an event, 0 to 1000000"
EVENT = "it must be the number of an event, 1 to 1000000"


def event(**fields: Any) -> RunEvent:
    return RunEvent(**{"event_id": "1", "run": "run_1", "org": "acme", "desk": "research", "state": "queued", **fields})


def orchestration(method: str, request: Any, param: str, message: str) -> InvalidCall:
    return InvalidCall(OrchestrationClient, method, request, param, message)


def publish(request: RunEvent, param: str, message: str) -> InvalidCall:
    return InvalidCall(StateClient, "publish_run_event", request, param, message)


def watch(request: WatchRunRequest, param: str, message: str) -> InvalidCall:
    return InvalidCall(StateClient, "watch_run", request, param, message)


CALLS = [
    orchestration("start_run", StartRunRequest(), "template", f"template is missing; {TEMPLATE}"),
    orchestration(
        "start_run", StartRunRequest(template="x" * 64), "template", f"template has 64 characters; {TEMPLATE}"
    ),
    orchestration(
        "start_run",
        StartRunRequest(template="digest", request_id="x" * 201),
        "request_id",
        "request_id has 201 characters; it can have up to 200 printable characters",
    ),
    orchestration("get_run", GetRunRequest(), "run", f"run is missing; {ID}"),
    orchestration("cancel_run", CancelRunRequest(run="a\0"), "run", f"run is 'a\\x00'; {ID}"),
    orchestration("list_runs", ListRunsRequest(page_size=501), "page_size", "page_size is 501; it can be 0 to 500"),
    orchestration(
        "create_schedule",
        CreateScheduleRequest(name="A b", spec=ScheduleSpec(template="digest")),
        "name",
        "name is 'A b'; it must be lower-case letters, digits, _ and -, at most 63",
    ),
    orchestration("create_schedule", CreateScheduleRequest(name="a"), "spec", "spec is missing; give a value"),
    orchestration(
        "preview_schedule",
        PreviewScheduleRequest(spec=ScheduleSpec(template="digest", jitter_seconds=3601)),
        "spec.jitter_seconds",
        "spec.jitter_seconds is 3601; it can be 0 to 3600",
    ),
    orchestration("get_schedule", GetScheduleRequest(), "schedule", f"schedule is missing; {ID}"),
    watch(WatchRunRequest(), "run", f"run is missing; {ID}"),
    *(
        watch(
            WatchRunRequest(run="run_1", last_event_id=id_), "last_event_id", f"last_event_id is {id_!r}; {LAST_EVENT}"
        )
        for id_ in ("-1", "x", "²", "1000001", "1" * 9)
    ),
    *(
        publish(event(event_id=id_), "event_id", f"event_id is {id_!r}; {EVENT}")
        for id_ in ("0", "-1", "x", "²", "1000001")
    ),
    publish(event(event_id=""), "event_id", f"event_id is missing; {EVENT}"),
    publish(event(run=""), "run", f"run is missing; {ID}"),
    publish(event(org="x" * 201), "org", f"org has 201 characters; {ID}"),
    publish(event(desk=""), "desk", f"desk is missing; {ID}"),
    publish(
        event(state="done"),
        "state",
        "state is 'done'; it can be: queued, started, retrying, succeeded, failed, cancelled, waiting, undoing",
    ),
    publish(event(detail="x" * 501), "detail", "detail has 501 characters; it can have up to 500 characters"),
    InvalidCall(TemplatesClient, "get_template", GetTemplateRequest(), "name", f"name is missing; {TEMPLATE}"),
    InvalidCall(
        TemplatesClient,
        "get_template",
        GetTemplateRequest(name="digest", version="abc"),
        "version",
        f"version is 'abc'; {VERSION}",
    ),
]

RUNS = "/api/v1/runs"
HTTP = [
    InvalidHttpRequest("POST", RUNS, {}, "template", f"template is missing; {TEMPLATE}"),
    InvalidHttpRequest(
        "POST",
        RUNS,
        {"template": "digest", "request_id": "a\nb"},
        "request_id",
        "request_id is 'a\\nb'; it can have up to 200 printable characters",
    ),
    InvalidHttpRequest("GET", f"{RUNS}?page_size=501", None, "page_size", "page_size is 501; it can be 0 to 500"),
    InvalidHttpRequest("GET", f"{RUNS}/{'x' * 201}", None, "run", f"run has 201 characters; {ID}"),
    InvalidHttpRequest("POST", f"{RUNS}/%00:cancel", None, "run", f"run is '\\x00'; {ID}"),
    InvalidHttpRequest(
        "GET", f"{RUNS}/run_1:watch?last_event_id=x", None, "last_event_id", f"last_event_id is 'x'; {LAST_EVENT}"
    ),
    InvalidHttpRequest("GET", "/api/v1/templates/digest?version=abc", None, "version", f"version is 'abc'; {VERSION}"),
]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_every_transport_rejects_invalid_fields(
    profile: Profile, folder: Path, caller: Principal, how: str
) -> None:
    async with workflow_harness(profile, folder, caller, how) as harness:
        with acting_for(caller):
            await check_calls(harness.host, CALLS)


async def test_rest_returns_400_with_the_path_of_an_invalid_field(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    async with workflow_harness(profile, folder, caller) as harness:
        await check_http(harness.host, HTTP, "workflows:run workflows:read")
