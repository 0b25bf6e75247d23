import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.workflow.v1 import approvals_pb2 as _approvals_pb2
from drw.api.workflow.v1 import retention_pb2 as _retention_pb2
from drw.api.workflow.v1 import run_control_pb2 as _run_control_pb2
from drw.api.workflow.v1 import schedules_pb2 as _schedules_pb2
from drw.api.workflow.v1 import triggers_pb2 as _triggers_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from drw.api.workflow.v1.approvals_pb2 import ListApprovalsRequest as ListApprovalsRequest
from drw.api.workflow.v1.approvals_pb2 import ListApprovalsResponse as ListApprovalsResponse
from drw.api.workflow.v1.approvals_pb2 import DecideApprovalRequest as DecideApprovalRequest
from drw.api.workflow.v1.approvals_pb2 import Vote as Vote
from drw.api.workflow.v1.approvals_pb2 import Approval as Approval
from drw.api.workflow.v1.approvals_pb2 import CreateDelegationRequest as CreateDelegationRequest
from drw.api.workflow.v1.approvals_pb2 import Delegation as Delegation
from drw.api.workflow.v1.approvals_pb2 import ListDelegationsRequest as ListDelegationsRequest
from drw.api.workflow.v1.approvals_pb2 import ListDelegationsResponse as ListDelegationsResponse
from drw.api.workflow.v1.approvals_pb2 import EndDelegationRequest as EndDelegationRequest
from drw.api.workflow.v1.approvals_pb2 import CreateApprovalLinkRequest as CreateApprovalLinkRequest
from drw.api.workflow.v1.approvals_pb2 import ApprovalLink as ApprovalLink
from drw.api.workflow.v1.approvals_pb2 import OpenApprovalLinkRequest as OpenApprovalLinkRequest
from drw.api.workflow.v1.approvals_pb2 import UseApprovalLinkRequest as UseApprovalLinkRequest
from drw.api.workflow.v1.retention_pb2 import Hold as Hold
from drw.api.workflow.v1.retention_pb2 import PlaceHoldRequest as PlaceHoldRequest
from drw.api.workflow.v1.retention_pb2 import ListHoldsRequest as ListHoldsRequest
from drw.api.workflow.v1.retention_pb2 import ListHoldsResponse as ListHoldsResponse
from drw.api.workflow.v1.retention_pb2 import ReleaseHoldRequest as ReleaseHoldRequest
from drw.api.workflow.v1.run_control_pb2 import PauseRunRequest as PauseRunRequest
from drw.api.workflow.v1.run_control_pb2 import ResumeRunRequest as ResumeRunRequest
from drw.api.workflow.v1.run_control_pb2 import ForkRunRequest as ForkRunRequest
from drw.api.workflow.v1.run_control_pb2 import RetryRunRequest as RetryRunRequest
from drw.api.workflow.v1.run_control_pb2 import PayloadReference as PayloadReference
from drw.api.workflow.v1.run_control_pb2 import GetRunPayloadRequest as GetRunPayloadRequest
from drw.api.workflow.v1.run_control_pb2 import RunPayload as RunPayload
from drw.api.workflow.v1.run_control_pb2 import SendSignalRequest as SendSignalRequest
from drw.api.workflow.v1.run_control_pb2 import Signal as Signal
from drw.api.workflow.v1.run_control_pb2 import QueryRunRequest as QueryRunRequest
from drw.api.workflow.v1.run_control_pb2 import Priority as Priority
from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec as ScheduleSpec
from drw.api.workflow.v1.schedules_pb2 import Occurrence as Occurrence
from drw.api.workflow.v1.schedules_pb2 import Preview as Preview
from drw.api.workflow.v1.schedules_pb2 import Tick as Tick
from drw.api.workflow.v1.schedules_pb2 import Backfill as Backfill
from drw.api.workflow.v1.schedules_pb2 import Schedule as Schedule
from drw.api.workflow.v1.schedules_pb2 import CreateScheduleRequest as CreateScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import PreviewScheduleRequest as PreviewScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import ListSchedulesRequest as ListSchedulesRequest
from drw.api.workflow.v1.schedules_pb2 import ListSchedulesResponse as ListSchedulesResponse
from drw.api.workflow.v1.schedules_pb2 import GetScheduleRequest as GetScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import PauseScheduleRequest as PauseScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import ResumeScheduleRequest as ResumeScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import BackfillScheduleRequest as BackfillScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import DeleteScheduleRequest as DeleteScheduleRequest
from drw.api.workflow.v1.schedules_pb2 import DeleteScheduleResponse as DeleteScheduleResponse
from drw.api.workflow.v1.triggers_pb2 import TriggerSpec as TriggerSpec
from drw.api.workflow.v1.triggers_pb2 import Firing as Firing
from drw.api.workflow.v1.triggers_pb2 import Trigger as Trigger
from drw.api.workflow.v1.triggers_pb2 import CreateTriggerRequest as CreateTriggerRequest
from drw.api.workflow.v1.triggers_pb2 import ListTriggersRequest as ListTriggersRequest
from drw.api.workflow.v1.triggers_pb2 import ListTriggersResponse as ListTriggersResponse
from drw.api.workflow.v1.triggers_pb2 import GetTriggerRequest as GetTriggerRequest
from drw.api.workflow.v1.triggers_pb2 import PauseTriggerRequest as PauseTriggerRequest
from drw.api.workflow.v1.triggers_pb2 import ResumeTriggerRequest as ResumeTriggerRequest
from drw.api.workflow.v1.triggers_pb2 import DeleteTriggerRequest as DeleteTriggerRequest
from drw.api.workflow.v1.triggers_pb2 import DeleteTriggerResponse as DeleteTriggerResponse

DESCRIPTOR: _descriptor.FileDescriptor
PRIORITY_UNSPECIFIED: _run_control_pb2.Priority
LOW: _run_control_pb2.Priority
NORMAL: _run_control_pb2.Priority
HIGH: _run_control_pb2.Priority

class FailureClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CLASS_UNSPECIFIED: _ClassVar[FailureClass]
    TRANSIENT: _ClassVar[FailureClass]
    PERMANENT: _ClassVar[FailureClass]
    POLICY: _ClassVar[FailureClass]
    BUDGET: _ClassVar[FailureClass]
    AMBIGUOUS: _ClassVar[FailureClass]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    QUEUED: _ClassVar[RunState]
    RUNNING: _ClassVar[RunState]
    SUCCEEDED: _ClassVar[RunState]
    FAILED: _ClassVar[RunState]
    CANCELLED: _ClassVar[RunState]
    RETRYING: _ClassVar[RunState]
    PAUSED: _ClassVar[RunState]
FAILURE_CLASS_UNSPECIFIED: FailureClass
TRANSIENT: FailureClass
PERMANENT: FailureClass
POLICY: FailureClass
BUDGET: FailureClass
AMBIGUOUS: FailureClass
RUN_STATE_UNSPECIFIED: RunState
QUEUED: RunState
RUNNING: RunState
SUCCEEDED: RunState
FAILED: RunState
CANCELLED: RunState
RETRYING: RunState
PAUSED: RunState

class StartRunRequest(_message.Message):
    __slots__ = ("template", "inputs", "request_id", "priority")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    template: str
    inputs: _kernel_pb2.Json
    request_id: str
    priority: _run_control_pb2.Priority
    def __init__(self, template: _Optional[str] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., request_id: _Optional[str] = ..., priority: _Optional[_Union[_run_control_pb2.Priority, str]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class ReplayRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class Replay(_message.Message):
    __slots__ = ("run", "template", "template_version", "steps", "step", "divergence")
    RUN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DIVERGENCE_FIELD_NUMBER: _ClassVar[int]
    run: str
    template: str
    template_version: str
    steps: int
    step: str
    divergence: str
    def __init__(self, run: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., steps: _Optional[int] = ..., step: _Optional[str] = ..., divergence: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "template", "state", "created_after", "created_before", "input", "error", "desk")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    template: str
    state: RunState
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    input: str
    error: str
    desk: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., template: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., input: _Optional[str] = ..., error: _Optional[str] = ..., desk: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RestartRunRequest(_message.Message):
    __slots__ = ("run", "request_id", "inputs", "template_version", "from_step")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    run: str
    request_id: str
    inputs: _kernel_pb2.Json
    template_version: str
    from_step: str
    def __init__(self, run: _Optional[str] = ..., request_id: _Optional[str] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., template_version: _Optional[str] = ..., from_step: _Optional[str] = ...) -> None: ...

class ListFailuresRequest(_message.Message):
    __slots__ = ("after", "wait_seconds")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    after: int
    wait_seconds: int
    def __init__(self, after: _Optional[int] = ..., wait_seconds: _Optional[int] = ...) -> None: ...

class ListFailuresResponse(_message.Message):
    __slots__ = ("failures",)
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    def __init__(self, failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("number", "org", "desk", "walls", "run", "key", "template", "template_version", "inputs", "step", "failure_class", "reason", "error", "attempts", "failed_at", "restart_of")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_AT_FIELD_NUMBER: _ClassVar[int]
    RESTART_OF_FIELD_NUMBER: _ClassVar[int]
    number: int
    org: str
    desk: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    run: str
    key: str
    template: str
    template_version: str
    inputs: _kernel_pb2.Json
    step: str
    failure_class: FailureClass
    reason: str
    error: str
    attempts: int
    failed_at: _timestamp_pb2.Timestamp
    restart_of: str
    def __init__(self, number: _Optional[int] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., run: _Optional[str] = ..., key: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., step: _Optional[str] = ..., failure_class: _Optional[_Union[FailureClass, str]] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., attempts: _Optional[int] = ..., failed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., restart_of: _Optional[str] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("id", "state", "attempts", "error", "started_at", "ended_at", "output", "failure_class", "output_payload")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: RunState
    attempts: int
    error: str
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    output: _kernel_pb2.Json
    failure_class: FailureClass
    output_payload: _run_control_pb2.PayloadReference
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., attempts: _Optional[int] = ..., error: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., output: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., failure_class: _Optional[_Union[FailureClass, str]] = ..., output_payload: _Optional[_Union[_run_control_pb2.PayloadReference, _Mapping]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("id", "template", "template_version", "state", "inputs", "output", "error", "created_at", "ended_at", "steps", "desk", "started_by", "walls", "restart_of", "schedule", "scheduled_for", "trigger", "event", "undo_reason", "inputs_payload", "output_payload", "priority", "paused_by", "paused_at", "forked_from", "from_step", "forks")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    RESTART_OF_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_FOR_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    UNDO_REASON_FIELD_NUMBER: _ClassVar[int]
    INPUTS_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PAUSED_BY_FIELD_NUMBER: _ClassVar[int]
    PAUSED_AT_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    FORKS_FIELD_NUMBER: _ClassVar[int]
    id: str
    template: str
    template_version: str
    state: RunState
    inputs: _kernel_pb2.Json
    output: _kernel_pb2.Json
    error: str
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    desk: str
    started_by: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    restart_of: str
    schedule: str
    scheduled_for: _timestamp_pb2.Timestamp
    trigger: str
    event: str
    undo_reason: str
    inputs_payload: _run_control_pb2.PayloadReference
    output_payload: _run_control_pb2.PayloadReference
    priority: _run_control_pb2.Priority
    paused_by: str
    paused_at: _timestamp_pb2.Timestamp
    forked_from: str
    from_step: str
    forks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., output: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., error: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., desk: _Optional[str] = ..., started_by: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., restart_of: _Optional[str] = ..., schedule: _Optional[str] = ..., scheduled_for: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trigger: _Optional[str] = ..., event: _Optional[str] = ..., undo_reason: _Optional[str] = ..., inputs_payload: _Optional[_Union[_run_control_pb2.PayloadReference, _Mapping]] = ..., output_payload: _Optional[_Union[_run_control_pb2.PayloadReference, _Mapping]] = ..., priority: _Optional[_Union[_run_control_pb2.Priority, str]] = ..., paused_by: _Optional[str] = ..., paused_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., forked_from: _Optional[str] = ..., from_step: _Optional[str] = ..., forks: _Optional[_Iterable[str]] = ...) -> None: ...

class NodeProgress(_message.Message):
    __slots__ = ("node", "steps")
    class StepsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    node: str
    steps: _containers.ScalarMap[str, int]
    def __init__(self, node: _Optional[str] = ..., steps: _Optional[_Mapping[str, int]] = ...) -> None: ...

class WaitingFor(_message.Message):
    __slots__ = ("step", "kind", "name", "deadline")
    STEP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    step: str
    kind: str
    name: str
    deadline: _timestamp_pb2.Timestamp
    def __init__(self, step: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RunQuery(_message.Message):
    __slots__ = ("run", "state", "nodes", "values", "omitted", "waiting_for", "pending_signals")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    PENDING_SIGNALS_FIELD_NUMBER: _ClassVar[int]
    run: str
    state: RunState
    nodes: _containers.RepeatedCompositeFieldContainer[NodeProgress]
    values: _kernel_pb2.Json
    omitted: _containers.RepeatedScalarFieldContainer[str]
    waiting_for: _containers.RepeatedCompositeFieldContainer[WaitingFor]
    pending_signals: _containers.RepeatedCompositeFieldContainer[_run_control_pb2.Signal]
    def __init__(self, run: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., nodes: _Optional[_Iterable[_Union[NodeProgress, _Mapping]]] = ..., values: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., omitted: _Optional[_Iterable[str]] = ..., waiting_for: _Optional[_Iterable[_Union[WaitingFor, _Mapping]]] = ..., pending_signals: _Optional[_Iterable[_Union[_run_control_pb2.Signal, _Mapping]]] = ...) -> None: ...
