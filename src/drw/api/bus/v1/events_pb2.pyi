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

class TailEventsRequest(_message.Message):
    __slots__ = ("last_event_id", "types")
    LAST_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    last_event_id: str
    types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, last_event_id: _Optional[str] = ..., types: _Optional[_Iterable[str]] = ...) -> None: ...

class ListParkedEventsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "consumer", "type")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    consumer: str
    type: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., consumer: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class ListParkedEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ParkedEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[ParkedEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RedriveParkedEventsRequest(_message.Message):
    __slots__ = ("parked", "all", "consumer", "type")
    PARKED_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    parked: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    consumer: str
    type: str
    def __init__(self, parked: _Optional[_Iterable[str]] = ..., all: _Optional[bool] = ..., consumer: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class RedriveParkedEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: int
    def __init__(self, events: _Optional[int] = ...) -> None: ...

class ParkedEvent(_message.Message):
    __slots__ = ("id", "consumer", "event", "type", "subject", "error", "parked_at", "org", "desk", "walls", "malformed", "redrives", "redriving", "data")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PARKED_AT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_FIELD_NUMBER: _ClassVar[int]
    REDRIVES_FIELD_NUMBER: _ClassVar[int]
    REDRIVING_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    consumer: str
    event: str
    type: str
    subject: str
    error: str
    parked_at: _timestamp_pb2.Timestamp
    org: str
    desk: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    malformed: bool
    redrives: int
    redriving: bool
    data: _kernel_pb2.Json
    def __init__(self, id: _Optional[str] = ..., consumer: _Optional[str] = ..., event: _Optional[str] = ..., type: _Optional[str] = ..., subject: _Optional[str] = ..., error: _Optional[str] = ..., parked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., malformed: _Optional[bool] = ..., redrives: _Optional[int] = ..., redriving: _Optional[bool] = ..., data: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("event_id", "id", "type", "source", "subject", "time", "org", "desk", "walls", "actor", "data")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    id: str
    type: str
    source: str
    subject: str
    time: _timestamp_pb2.Timestamp
    org: str
    desk: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    actor: str
    data: _kernel_pb2.Json
    def __init__(self, event_id: _Optional[str] = ..., id: _Optional[str] = ..., type: _Optional[str] = ..., source: _Optional[str] = ..., subject: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., actor: _Optional[str] = ..., data: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...
