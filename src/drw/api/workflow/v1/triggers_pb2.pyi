import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TriggerSpec(_message.Message):
    __slots__ = ("event", "collection", "filter", "template", "inputs", "max_runs_per_minute")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    event: str
    collection: str
    filter: str
    template: str
    inputs: _kernel_pb2.Json
    max_runs_per_minute: int
    def __init__(self, event: _Optional[str] = ..., collection: _Optional[str] = ..., filter: _Optional[str] = ..., template: _Optional[str] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., max_runs_per_minute: _Optional[int] = ...) -> None: ...

class Firing(_message.Message):
    __slots__ = ("event", "subject", "at", "outcome", "run", "detail")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Firing.Outcome]
        PENDING: _ClassVar[Firing.Outcome]
        STARTED: _ClassVar[Firing.Outcome]
        REFUSED: _ClassVar[Firing.Outcome]
        DROPPED: _ClassVar[Firing.Outcome]
    OUTCOME_UNSPECIFIED: Firing.Outcome
    PENDING: Firing.Outcome
    STARTED: Firing.Outcome
    REFUSED: Firing.Outcome
    DROPPED: Firing.Outcome
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    event: str
    subject: str
    at: _timestamp_pb2.Timestamp
    outcome: Firing.Outcome
    run: str
    detail: str
    def __init__(self, event: _Optional[str] = ..., subject: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outcome: _Optional[_Union[Firing.Outcome, str]] = ..., run: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Trigger(_message.Message):
    __slots__ = ("id", "name", "spec", "state", "detail", "desk", "created_by", "walls", "created_at", "waiting", "firings")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Trigger.State]
        ACTIVE: _ClassVar[Trigger.State]
        PAUSED: _ClassVar[Trigger.State]
        STOPPED: _ClassVar[Trigger.State]
    STATE_UNSPECIFIED: Trigger.State
    ACTIVE: Trigger.State
    PAUSED: Trigger.State
    STOPPED: Trigger.State
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FIRINGS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    spec: TriggerSpec
    state: Trigger.State
    detail: str
    desk: str
    created_by: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    waiting: int
    firings: _containers.RepeatedCompositeFieldContainer[Firing]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., spec: _Optional[_Union[TriggerSpec, _Mapping]] = ..., state: _Optional[_Union[Trigger.State, str]] = ..., detail: _Optional[str] = ..., desk: _Optional[str] = ..., created_by: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waiting: _Optional[int] = ..., firings: _Optional[_Iterable[_Union[Firing, _Mapping]]] = ...) -> None: ...

class CreateTriggerRequest(_message.Message):
    __slots__ = ("name", "spec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: TriggerSpec
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[TriggerSpec, _Mapping]] = ...) -> None: ...

class ListTriggersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTriggersResponse(_message.Message):
    __slots__ = ("triggers", "next_page_token")
    TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    triggers: _containers.RepeatedCompositeFieldContainer[Trigger]
    next_page_token: str
    def __init__(self, triggers: _Optional[_Iterable[_Union[Trigger, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTriggerRequest(_message.Message):
    __slots__ = ("trigger",)
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    trigger: str
    def __init__(self, trigger: _Optional[str] = ...) -> None: ...

class PauseTriggerRequest(_message.Message):
    __slots__ = ("trigger",)
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    trigger: str
    def __init__(self, trigger: _Optional[str] = ...) -> None: ...

class ResumeTriggerRequest(_message.Message):
    __slots__ = ("trigger",)
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    trigger: str
    def __init__(self, trigger: _Optional[str] = ...) -> None: ...

class DeleteTriggerRequest(_message.Message):
    __slots__ = ("trigger",)
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    trigger: str
    def __init__(self, trigger: _Optional[str] = ...) -> None: ...

class DeleteTriggerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
