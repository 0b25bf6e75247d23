import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.workflow.v1 import orchestration_pb2 as _orchestration_pb2
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

DESCRIPTOR: _descriptor.FileDescriptor

class DeadLetter(_message.Message):
    __slots__ = ("id", "state", "run", "template", "template_version", "step", "failure_class", "reason", "error", "attempts", "group", "failed_at", "inputs", "started_by", "walls", "restart_of", "redrive", "redriven_run", "redrive_error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[DeadLetter.State]
        OPEN: _ClassVar[DeadLetter.State]
        REDRIVING: _ClassVar[DeadLetter.State]
        REDRIVEN: _ClassVar[DeadLetter.State]
        DISCARDED: _ClassVar[DeadLetter.State]
    STATE_UNSPECIFIED: DeadLetter.State
    OPEN: DeadLetter.State
    REDRIVING: DeadLetter.State
    REDRIVEN: DeadLetter.State
    DISCARDED: DeadLetter.State
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FAILED_AT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    RESTART_OF_FIELD_NUMBER: _ClassVar[int]
    REDRIVE_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_RUN_FIELD_NUMBER: _ClassVar[int]
    REDRIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: DeadLetter.State
    run: str
    template: str
    template_version: str
    step: str
    failure_class: _orchestration_pb2.FailureClass
    reason: str
    error: str
    attempts: int
    group: str
    failed_at: _timestamp_pb2.Timestamp
    inputs: _kernel_pb2.Json
    started_by: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    restart_of: str
    redrive: str
    redriven_run: str
    redrive_error: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[DeadLetter.State, str]] = ..., run: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., step: _Optional[str] = ..., failure_class: _Optional[_Union[_orchestration_pb2.FailureClass, str]] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., attempts: _Optional[int] = ..., group: _Optional[str] = ..., failed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., started_by: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., restart_of: _Optional[str] = ..., redrive: _Optional[str] = ..., redriven_run: _Optional[str] = ..., redrive_error: _Optional[str] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("group", "template", "step", "failure_class", "state", "error", "failed_after", "failed_before", "page_size", "page_token")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILED_AFTER_FIELD_NUMBER: _ClassVar[int]
    FAILED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    group: str
    template: str
    step: str
    failure_class: _orchestration_pb2.FailureClass
    state: DeadLetter.State
    error: str
    failed_after: _timestamp_pb2.Timestamp
    failed_before: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, group: _Optional[str] = ..., template: _Optional[str] = ..., step: _Optional[str] = ..., failure_class: _Optional[_Union[_orchestration_pb2.FailureClass, str]] = ..., state: _Optional[_Union[DeadLetter.State, str]] = ..., error: _Optional[str] = ..., failed_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failed_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("dead_letters", "next_page_token")
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dead_letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    next_page_token: str
    def __init__(self, dead_letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDeadLetterRequest(_message.Message):
    __slots__ = ("dead_letter",)
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    dead_letter: str
    def __init__(self, dead_letter: _Optional[str] = ...) -> None: ...

class ListDeadLetterGroupsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDeadLetterGroupsResponse(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[DeadLetterGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[DeadLetterGroup, _Mapping]]] = ...) -> None: ...

class DeadLetterGroup(_message.Message):
    __slots__ = ("group", "dead_letters", "template", "node", "failure_class", "reason", "error", "first_failed_at", "last_failed_at")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAILED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILED_AT_FIELD_NUMBER: _ClassVar[int]
    group: str
    dead_letters: int
    template: str
    node: str
    failure_class: _orchestration_pb2.FailureClass
    reason: str
    error: str
    first_failed_at: _timestamp_pb2.Timestamp
    last_failed_at: _timestamp_pb2.Timestamp
    def __init__(self, group: _Optional[str] = ..., dead_letters: _Optional[int] = ..., template: _Optional[str] = ..., node: _Optional[str] = ..., failure_class: _Optional[_Union[_orchestration_pb2.FailureClass, str]] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., first_failed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_failed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeadLetterFilter(_message.Message):
    __slots__ = ("ids", "group", "template", "step", "failure_class", "error", "failed_after", "failed_before")
    IDS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILED_AFTER_FIELD_NUMBER: _ClassVar[int]
    FAILED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    group: str
    template: str
    step: str
    failure_class: _orchestration_pb2.FailureClass
    error: str
    failed_after: _timestamp_pb2.Timestamp
    failed_before: _timestamp_pb2.Timestamp
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., group: _Optional[str] = ..., template: _Optional[str] = ..., step: _Optional[str] = ..., failure_class: _Optional[_Union[_orchestration_pb2.FailureClass, str]] = ..., error: _Optional[str] = ..., failed_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failed_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DiscardDeadLettersRequest(_message.Message):
    __slots__ = ("filter", "reason", "dry_run")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    filter: DeadLetterFilter
    reason: str
    dry_run: bool
    def __init__(self, filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., reason: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DiscardDeadLettersResponse(_message.Message):
    __slots__ = ("dead_letters",)
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    dead_letters: int
    def __init__(self, dead_letters: _Optional[int] = ...) -> None: ...

class RedriveDeadLettersRequest(_message.Message):
    __slots__ = ("filter", "request_id", "dry_run", "runs_per_minute", "inputs", "template_version", "from_step")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    RUNS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    filter: DeadLetterFilter
    request_id: str
    dry_run: bool
    runs_per_minute: int
    inputs: _kernel_pb2.Json
    template_version: str
    from_step: str
    def __init__(self, filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., request_id: _Optional[str] = ..., dry_run: _Optional[bool] = ..., runs_per_minute: _Optional[int] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., template_version: _Optional[str] = ..., from_step: _Optional[str] = ...) -> None: ...

class Redrive(_message.Message):
    __slots__ = ("id", "state", "dead_letters", "waiting", "started", "failed", "put_back", "groups", "runs_per_minute", "template_version", "from_step", "edited_inputs", "requested_by", "created_at", "ended_at")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Redrive.State]
        DRY_RUN: _ClassVar[Redrive.State]
        ACTIVE: _ClassVar[Redrive.State]
        ENDED: _ClassVar[Redrive.State]
        STOPPED: _ClassVar[Redrive.State]
    STATE_UNSPECIFIED: Redrive.State
    DRY_RUN: Redrive.State
    ACTIVE: Redrive.State
    ENDED: Redrive.State
    STOPPED: Redrive.State
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PUT_BACK_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    RUNS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    EDITED_INPUTS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: Redrive.State
    dead_letters: int
    waiting: int
    started: int
    failed: int
    put_back: int
    groups: _containers.RepeatedCompositeFieldContainer[RedriveGroup]
    runs_per_minute: int
    template_version: str
    from_step: str
    edited_inputs: _containers.RepeatedScalarFieldContainer[str]
    requested_by: str
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[Redrive.State, str]] = ..., dead_letters: _Optional[int] = ..., waiting: _Optional[int] = ..., started: _Optional[int] = ..., failed: _Optional[int] = ..., put_back: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[RedriveGroup, _Mapping]]] = ..., runs_per_minute: _Optional[int] = ..., template_version: _Optional[str] = ..., from_step: _Optional[str] = ..., edited_inputs: _Optional[_Iterable[str]] = ..., requested_by: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RedriveGroup(_message.Message):
    __slots__ = ("group", "state", "dead_letters", "probe_run", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[RedriveGroup.State]
        WAITING: _ClassVar[RedriveGroup.State]
        PROBING: _ClassVar[RedriveGroup.State]
        PASSED: _ClassVar[RedriveGroup.State]
        REFUSED: _ClassVar[RedriveGroup.State]
    STATE_UNSPECIFIED: RedriveGroup.State
    WAITING: RedriveGroup.State
    PROBING: RedriveGroup.State
    PASSED: RedriveGroup.State
    REFUSED: RedriveGroup.State
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    PROBE_RUN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    group: str
    state: RedriveGroup.State
    dead_letters: int
    probe_run: str
    error: str
    def __init__(self, group: _Optional[str] = ..., state: _Optional[_Union[RedriveGroup.State, str]] = ..., dead_letters: _Optional[int] = ..., probe_run: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class GetRedriveRequest(_message.Message):
    __slots__ = ("redrive",)
    REDRIVE_FIELD_NUMBER: _ClassVar[int]
    redrive: str
    def __init__(self, redrive: _Optional[str] = ...) -> None: ...

class CancelRedriveRequest(_message.Message):
    __slots__ = ("redrive",)
    REDRIVE_FIELD_NUMBER: _ClassVar[int]
    redrive: str
    def __init__(self, redrive: _Optional[str] = ...) -> None: ...
