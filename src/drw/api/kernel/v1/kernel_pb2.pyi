from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
SCOPE_FIELD_NUMBER: _ClassVar[int]
scope: _descriptor.FieldDescriptor
IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
idle_seconds: _descriptor.FieldDescriptor
RULES_FIELD_NUMBER: _ClassVar[int]
rules: _descriptor.FieldDescriptor

class ErrorInfo(_message.Message):
    __slots__ = ("reason", "service", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    service: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., service: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Rules(_message.Message):
    __slots__ = ("required", "max_length", "pattern", "expected", "printable", "one_of", "minimum", "maximum", "max_items", "unique", "secret", "scope", "keys", "values")
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    PRINTABLE_FIELD_NUMBER: _ClassVar[int]
    ONE_OF_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    required: bool
    max_length: int
    pattern: str
    expected: str
    printable: bool
    one_of: _containers.RepeatedScalarFieldContainer[str]
    minimum: int
    maximum: int
    max_items: int
    unique: bool
    secret: bool
    scope: bool
    keys: Rules
    values: Rules
    def __init__(self, required: _Optional[bool] = ..., max_length: _Optional[int] = ..., pattern: _Optional[str] = ..., expected: _Optional[str] = ..., printable: _Optional[bool] = ..., one_of: _Optional[_Iterable[str]] = ..., minimum: _Optional[int] = ..., maximum: _Optional[int] = ..., max_items: _Optional[int] = ..., unique: _Optional[bool] = ..., secret: _Optional[bool] = ..., scope: _Optional[bool] = ..., keys: _Optional[_Union[Rules, _Mapping]] = ..., values: _Optional[_Union[Rules, _Mapping]] = ...) -> None: ...

class Json(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Caller(_message.Message):
    __slots__ = ("org", "desk", "key", "scopes", "walls")
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    org: str
    desk: str
    key: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, org: _Optional[str] = ..., desk: _Optional[str] = ..., key: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProcessStatus(_message.Message):
    __slots__ = ("name", "services", "instance", "requests", "unanswered")
    class RequestsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: RequestCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[RequestCounts, _Mapping]] = ...) -> None: ...
    class UnansweredEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    name: str
    services: _containers.RepeatedCompositeFieldContainer[ServiceStatus]
    instance: str
    requests: _containers.MessageMap[str, RequestCounts]
    unanswered: _containers.ScalarMap[str, int]
    def __init__(self, name: _Optional[str] = ..., services: _Optional[_Iterable[_Union[ServiceStatus, _Mapping]]] = ..., instance: _Optional[str] = ..., requests: _Optional[_Mapping[str, RequestCounts]] = ..., unanswered: _Optional[_Mapping[str, int]] = ...) -> None: ...

class RequestCounts(_message.Message):
    __slots__ = ("good", "slow", "failed")
    GOOD_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    good: int
    slow: int
    failed: int
    def __init__(self, good: _Optional[int] = ..., slow: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("name", "cluster", "state", "detail")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ServiceStatus.State]
        STARTING: _ClassVar[ServiceStatus.State]
        READY: _ClassVar[ServiceStatus.State]
        DEGRADED: _ClassVar[ServiceStatus.State]
        UNIMPLEMENTED: _ClassVar[ServiceStatus.State]
        DOWN: _ClassVar[ServiceStatus.State]
    STATE_UNSPECIFIED: ServiceStatus.State
    STARTING: ServiceStatus.State
    READY: ServiceStatus.State
    DEGRADED: ServiceStatus.State
    UNIMPLEMENTED: ServiceStatus.State
    DOWN: ServiceStatus.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    cluster: str
    state: ServiceStatus.State
    detail: str
    def __init__(self, name: _Optional[str] = ..., cluster: _Optional[str] = ..., state: _Optional[_Union[ServiceStatus.State, str]] = ..., detail: _Optional[str] = ...) -> None: ...
