from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListUpstreamsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchUpstreamsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteUpstreamRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteUpstreamResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Upstreams(_message.Message):
    __slots__ = ("upstreams",)
    UPSTREAMS_FIELD_NUMBER: _ClassVar[int]
    upstreams: _containers.RepeatedCompositeFieldContainer[Upstream]
    def __init__(self, upstreams: _Optional[_Iterable[_Union[Upstream, _Mapping]]] = ...) -> None: ...

class Upstream(_message.Message):
    __slots__ = ("name", "addresses", "services", "when_gone", "origin", "balancing", "tls", "credential", "connect_ms", "max_connections", "max_pending", "max_requests", "retry_percent", "eject_after", "eject_ms", "eject_on_errors", "http2")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    WHEN_GONE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    BALANCING_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    CONNECT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RETRY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    EJECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    EJECT_MS_FIELD_NUMBER: _ClassVar[int]
    EJECT_ON_ERRORS_FIELD_NUMBER: _ClassVar[int]
    HTTP2_FIELD_NUMBER: _ClassVar[int]
    name: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    services: _containers.RepeatedScalarFieldContainer[str]
    when_gone: str
    origin: str
    balancing: str
    tls: bool
    credential: str
    connect_ms: int
    max_connections: int
    max_pending: int
    max_requests: int
    retry_percent: int
    eject_after: int
    eject_ms: int
    eject_on_errors: bool
    http2: bool
    def __init__(self, name: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., services: _Optional[_Iterable[str]] = ..., when_gone: _Optional[str] = ..., origin: _Optional[str] = ..., balancing: _Optional[str] = ..., tls: _Optional[bool] = ..., credential: _Optional[str] = ..., connect_ms: _Optional[int] = ..., max_connections: _Optional[int] = ..., max_pending: _Optional[int] = ..., max_requests: _Optional[int] = ..., retry_percent: _Optional[int] = ..., eject_after: _Optional[int] = ..., eject_ms: _Optional[int] = ..., eject_on_errors: _Optional[bool] = ..., http2: _Optional[bool] = ...) -> None: ...
