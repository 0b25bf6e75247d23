import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    LOW: _ClassVar[Priority]
    NORMAL: _ClassVar[Priority]
    HIGH: _ClassVar[Priority]
PRIORITY_UNSPECIFIED: Priority
LOW: Priority
NORMAL: Priority
HIGH: Priority

class PauseRunRequest(_message.Message):
    __slots__ = ("run", "reason")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run: str
    reason: str
    def __init__(self, run: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class ForkRunRequest(_message.Message):
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

class RetryRunRequest(_message.Message):
    __slots__ = ("run", "request_id", "from_step")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    run: str
    request_id: str
    from_step: str
    def __init__(self, run: _Optional[str] = ..., request_id: _Optional[str] = ..., from_step: _Optional[str] = ...) -> None: ...

class PayloadReference(_message.Message):
    __slots__ = ("sha256", "bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    bytes: int
    def __init__(self, sha256: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class GetRunPayloadRequest(_message.Message):
    __slots__ = ("run", "sha256")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    run: str
    sha256: str
    def __init__(self, run: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class RunPayload(_message.Message):
    __slots__ = ("sha256", "bytes", "value")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    bytes: int
    value: _kernel_pb2.Json
    def __init__(self, sha256: _Optional[str] = ..., bytes: _Optional[int] = ..., value: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class SendSignalRequest(_message.Message):
    __slots__ = ("run", "signal", "signal_id", "payload")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    run: str
    signal: str
    signal_id: str
    payload: _kernel_pb2.Json
    def __init__(self, run: _Optional[str] = ..., signal: _Optional[str] = ..., signal_id: _Optional[str] = ..., payload: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class Signal(_message.Message):
    __slots__ = ("run", "name", "signal_id", "payload", "sent_by", "received_at", "delivered_to")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SENT_BY_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_TO_FIELD_NUMBER: _ClassVar[int]
    run: str
    name: str
    signal_id: str
    payload: _kernel_pb2.Json
    sent_by: str
    received_at: _timestamp_pb2.Timestamp
    delivered_to: str
    def __init__(self, run: _Optional[str] = ..., name: _Optional[str] = ..., signal_id: _Optional[str] = ..., payload: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., sent_by: _Optional[str] = ..., received_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delivered_to: _Optional[str] = ...) -> None: ...

class QueryRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...
