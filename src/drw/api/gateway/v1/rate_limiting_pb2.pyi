import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Limit(_message.Message):
    __slots__ = ("key", "requests_per_minute", "org", "desk", "expires_at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    key: str
    requests_per_minute: int
    org: str
    desk: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., requests_per_minute: _Optional[int] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Limits(_message.Message):
    __slots__ = ("default_requests_per_minute", "limits", "blocks")
    DEFAULT_REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    default_requests_per_minute: int
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    def __init__(self, default_requests_per_minute: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("subject", "org", "name", "reason")
    class Subject(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SUBJECT_UNSPECIFIED: _ClassVar[Block.Subject]
        KEY: _ClassVar[Block.Subject]
        DESK: _ClassVar[Block.Subject]
        ORG: _ClassVar[Block.Subject]
        MODEL: _ClassVar[Block.Subject]
    SUBJECT_UNSPECIFIED: Block.Subject
    KEY: Block.Subject
    DESK: Block.Subject
    ORG: Block.Subject
    MODEL: Block.Subject
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Block.Reason]
        KILLED: _ClassVar[Block.Reason]
        TOKENS: _ClassVar[Block.Reason]
        MONEY: _ClassVar[Block.Reason]
    REASON_UNSPECIFIED: Block.Reason
    KILLED: Block.Reason
    TOKENS: Block.Reason
    MONEY: Block.Reason
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    subject: Block.Subject
    org: str
    name: str
    reason: Block.Reason
    def __init__(self, subject: _Optional[_Union[Block.Subject, str]] = ..., org: _Optional[str] = ..., name: _Optional[str] = ..., reason: _Optional[_Union[Block.Reason, str]] = ...) -> None: ...

class ReportUsageRequest(_message.Message):
    __slots__ = ("data_plane", "usages")
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    USAGES_FIELD_NUMBER: _ClassVar[int]
    data_plane: str
    usages: _containers.RepeatedCompositeFieldContainer[Usage]
    def __init__(self, data_plane: _Optional[str] = ..., usages: _Optional[_Iterable[_Union[Usage, _Mapping]]] = ...) -> None: ...

class ReportUsageResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Usage(_message.Message):
    __slots__ = ("request_id", "org", "desk", "key", "model", "route", "upstream", "prompt_tokens", "completion_tokens", "counted", "status", "flags", "at", "trace_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    org: str
    desk: str
    key: str
    model: str
    route: str
    upstream: str
    prompt_tokens: int
    completion_tokens: int
    counted: bool
    status: int
    flags: str
    at: _timestamp_pb2.Timestamp
    trace_id: str
    def __init__(self, request_id: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., key: _Optional[str] = ..., model: _Optional[str] = ..., route: _Optional[str] = ..., upstream: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., counted: _Optional[bool] = ..., status: _Optional[int] = ..., flags: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace_id: _Optional[str] = ...) -> None: ...
