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

class ScheduleSpec(_message.Message):
    __slots__ = ("template", "inputs", "cron", "market", "time_zone", "jitter_seconds", "overlap", "catch_up_seconds")
    class Overlap(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OVERLAP_UNSPECIFIED: _ClassVar[ScheduleSpec.Overlap]
        SKIP: _ClassVar[ScheduleSpec.Overlap]
        QUEUE_ONE: _ClassVar[ScheduleSpec.Overlap]
        ALLOW: _ClassVar[ScheduleSpec.Overlap]
        CANCEL_RUNNING: _ClassVar[ScheduleSpec.Overlap]
    OVERLAP_UNSPECIFIED: ScheduleSpec.Overlap
    SKIP: ScheduleSpec.Overlap
    QUEUE_ONE: ScheduleSpec.Overlap
    ALLOW: ScheduleSpec.Overlap
    CANCEL_RUNNING: ScheduleSpec.Overlap
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    MARKET_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    JITTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    template: str
    inputs: _kernel_pb2.Json
    cron: str
    market: str
    time_zone: str
    jitter_seconds: int
    overlap: ScheduleSpec.Overlap
    catch_up_seconds: int
    def __init__(self, template: _Optional[str] = ..., inputs: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., cron: _Optional[str] = ..., market: _Optional[str] = ..., time_zone: _Optional[str] = ..., jitter_seconds: _Optional[int] = ..., overlap: _Optional[_Union[ScheduleSpec.Overlap, str]] = ..., catch_up_seconds: _Optional[int] = ...) -> None: ...

class Occurrence(_message.Message):
    __slots__ = ("at", "local", "session", "frozen")
    AT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    local: str
    session: str
    frozen: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., local: _Optional[str] = ..., session: _Optional[str] = ..., frozen: _Optional[str] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("occurrences", "time_zone", "warning")
    OCCURRENCES_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    occurrences: _containers.RepeatedCompositeFieldContainer[Occurrence]
    time_zone: str
    warning: str
    def __init__(self, occurrences: _Optional[_Iterable[_Union[Occurrence, _Mapping]]] = ..., time_zone: _Optional[str] = ..., warning: _Optional[str] = ...) -> None: ...

class Tick(_message.Message):
    __slots__ = ("at", "outcome", "run", "detail")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Tick.Outcome]
        STARTED: _ClassVar[Tick.Outcome]
        SKIPPED: _ClassVar[Tick.Outcome]
        WAITING: _ClassVar[Tick.Outcome]
        MISSED: _ClassVar[Tick.Outcome]
        FROZEN: _ClassVar[Tick.Outcome]
        REFUSED: _ClassVar[Tick.Outcome]
    OUTCOME_UNSPECIFIED: Tick.Outcome
    STARTED: Tick.Outcome
    SKIPPED: Tick.Outcome
    WAITING: Tick.Outcome
    MISSED: Tick.Outcome
    FROZEN: Tick.Outcome
    REFUSED: Tick.Outcome
    AT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    outcome: Tick.Outcome
    run: str
    detail: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outcome: _Optional[_Union[Tick.Outcome, str]] = ..., run: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Backfill(_message.Message):
    __slots__ = ("id", "state", "to", "occurrences", "handled", "existing", "detail", "created_by")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Backfill.State]
        RUNNING: _ClassVar[Backfill.State]
        DONE: _ClassVar[Backfill.State]
        STOPPED: _ClassVar[Backfill.State]
    STATE_UNSPECIFIED: Backfill.State
    RUNNING: Backfill.State
    DONE: Backfill.State
    STOPPED: Backfill.State
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    OCCURRENCES_FIELD_NUMBER: _ClassVar[int]
    HANDLED_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: Backfill.State
    to: _timestamp_pb2.Timestamp
    occurrences: int
    handled: int
    existing: int
    detail: str
    created_by: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[Backfill.State, str]] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., occurrences: _Optional[int] = ..., handled: _Optional[int] = ..., existing: _Optional[int] = ..., detail: _Optional[str] = ..., created_by: _Optional[str] = ..., **kwargs) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("id", "name", "spec", "state", "detail", "desk", "created_by", "walls", "created_at", "next_at", "preview", "ticks", "backfills")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Schedule.State]
        ACTIVE: _ClassVar[Schedule.State]
        PAUSED: _ClassVar[Schedule.State]
        STOPPED: _ClassVar[Schedule.State]
    STATE_UNSPECIFIED: Schedule.State
    ACTIVE: Schedule.State
    PAUSED: Schedule.State
    STOPPED: Schedule.State
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    NEXT_AT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    TICKS_FIELD_NUMBER: _ClassVar[int]
    BACKFILLS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    spec: ScheduleSpec
    state: Schedule.State
    detail: str
    desk: str
    created_by: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    next_at: _timestamp_pb2.Timestamp
    preview: Preview
    ticks: _containers.RepeatedCompositeFieldContainer[Tick]
    backfills: _containers.RepeatedCompositeFieldContainer[Backfill]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., spec: _Optional[_Union[ScheduleSpec, _Mapping]] = ..., state: _Optional[_Union[Schedule.State, str]] = ..., detail: _Optional[str] = ..., desk: _Optional[str] = ..., created_by: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., next_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ..., ticks: _Optional[_Iterable[_Union[Tick, _Mapping]]] = ..., backfills: _Optional[_Iterable[_Union[Backfill, _Mapping]]] = ...) -> None: ...

class CreateScheduleRequest(_message.Message):
    __slots__ = ("name", "spec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: ScheduleSpec
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[ScheduleSpec, _Mapping]] = ...) -> None: ...

class PreviewScheduleRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: ScheduleSpec
    def __init__(self, spec: _Optional[_Union[ScheduleSpec, _Mapping]] = ...) -> None: ...

class ListSchedulesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSchedulesResponse(_message.Message):
    __slots__ = ("schedules", "next_page_token")
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    schedules: _containers.RepeatedCompositeFieldContainer[Schedule]
    next_page_token: str
    def __init__(self, schedules: _Optional[_Iterable[_Union[Schedule, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetScheduleRequest(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: str
    def __init__(self, schedule: _Optional[str] = ...) -> None: ...

class PauseScheduleRequest(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: str
    def __init__(self, schedule: _Optional[str] = ...) -> None: ...

class ResumeScheduleRequest(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: str
    def __init__(self, schedule: _Optional[str] = ...) -> None: ...

class BackfillScheduleRequest(_message.Message):
    __slots__ = ("schedule", "to", "max_concurrent")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    schedule: str
    to: _timestamp_pb2.Timestamp
    max_concurrent: int
    def __init__(self, schedule: _Optional[str] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_concurrent: _Optional[int] = ..., **kwargs) -> None: ...

class DeleteScheduleRequest(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: str
    def __init__(self, schedule: _Optional[str] = ...) -> None: ...

class DeleteScheduleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
