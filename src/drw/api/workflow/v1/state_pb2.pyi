import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRunRequest(_message.Message):
    __slots__ = ("run", "last_event_id")
    RUN_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    run: str
    last_event_id: str
    def __init__(self, run: _Optional[str] = ..., last_event_id: _Optional[str] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("event_id", "run", "org", "desk", "step", "state", "detail", "at", "walls")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    run: str
    org: str
    desk: str
    step: str
    state: str
    detail: str
    at: _timestamp_pb2.Timestamp
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, event_id: _Optional[str] = ..., run: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., step: _Optional[str] = ..., state: _Optional[str] = ..., detail: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class PublishRunEventResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteRunEventsRequest(_message.Message):
    __slots__ = ("runs",)
    class DeletedRun(_message.Message):
        __slots__ = ("org", "desk", "run")
        ORG_FIELD_NUMBER: _ClassVar[int]
        DESK_FIELD_NUMBER: _ClassVar[int]
        RUN_FIELD_NUMBER: _ClassVar[int]
        org: str
        desk: str
        run: str
        def __init__(self, org: _Optional[str] = ..., desk: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[DeleteRunEventsRequest.DeletedRun]
    def __init__(self, runs: _Optional[_Iterable[_Union[DeleteRunEventsRequest.DeletedRun, _Mapping]]] = ...) -> None: ...

class DeleteRunEventsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
