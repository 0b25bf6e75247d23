from drw.api.gateway.v1 import authentication_pb2 as _authentication_pb2
from drw.api.gateway.v1 import load_balancer_pb2 as _load_balancer_pb2
from drw.api.gateway.v1 import rate_limiting_pb2 as _rate_limiting_pb2
from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRoutesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchConfigurationRequest(_message.Message):
    __slots__ = ("data_plane",)
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    data_plane: str
    def __init__(self, data_plane: _Optional[str] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("name", "path", "methods", "scopes", "upstream", "max_body_bytes", "idle_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    upstream: str
    max_body_bytes: int
    idle_seconds: int
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., upstream: _Optional[str] = ..., max_body_bytes: _Optional[int] = ..., idle_seconds: _Optional[int] = ...) -> None: ...

class Routes(_message.Message):
    __slots__ = ("routes",)
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    def __init__(self, routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ...) -> None: ...

class Configuration(_message.Message):
    __slots__ = ("version", "credentials", "limits", "upstreams", "routes", "blocks")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAMS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    version: str
    credentials: _authentication_pb2.Credentials
    limits: _rate_limiting_pb2.Limits
    upstreams: _load_balancer_pb2.Upstreams
    routes: Routes
    blocks: _containers.RepeatedCompositeFieldContainer[_rate_limiting_pb2.Block]
    def __init__(self, version: _Optional[str] = ..., credentials: _Optional[_Union[_authentication_pb2.Credentials, _Mapping]] = ..., limits: _Optional[_Union[_rate_limiting_pb2.Limits, _Mapping]] = ..., upstreams: _Optional[_Union[_load_balancer_pb2.Upstreams, _Mapping]] = ..., routes: _Optional[_Union[Routes, _Mapping]] = ..., blocks: _Optional[_Iterable[_Union[_rate_limiting_pb2.Block, _Mapping]]] = ...) -> None: ...

class ConfigurationReport(_message.Message):
    __slots__ = ("data_plane", "version", "error")
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    data_plane: str
    version: str
    error: str
    def __init__(self, data_plane: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class ReportConfigurationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
