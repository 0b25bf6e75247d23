import datetime

from drw.api.gateway.v1 import authentication_pb2 as _authentication_pb2
from drw.api.gateway.v1 import load_balancer_pb2 as _load_balancer_pb2
from drw.api.gateway.v1 import rate_limiting_pb2 as _rate_limiting_pb2
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
    __slots__ = ("version", "credentials", "limits", "upstreams", "routes", "blocks", "refusals")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAMS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    version: str
    credentials: _authentication_pb2.Credentials
    limits: _rate_limiting_pb2.Limits
    upstreams: _load_balancer_pb2.Upstreams
    routes: Routes
    blocks: _containers.RepeatedCompositeFieldContainer[_rate_limiting_pb2.Block]
    refusals: str
    def __init__(self, version: _Optional[str] = ..., credentials: _Optional[_Union[_authentication_pb2.Credentials, _Mapping]] = ..., limits: _Optional[_Union[_rate_limiting_pb2.Limits, _Mapping]] = ..., upstreams: _Optional[_Union[_load_balancer_pb2.Upstreams, _Mapping]] = ..., routes: _Optional[_Union[Routes, _Mapping]] = ..., blocks: _Optional[_Iterable[_Union[_rate_limiting_pb2.Block, _Mapping]]] = ..., refusals: _Optional[str] = ...) -> None: ...

class ConfigurationReport(_message.Message):
    __slots__ = ("data_plane", "version", "error", "refusals")
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    data_plane: str
    version: str
    error: str
    refusals: str
    def __init__(self, data_plane: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ..., refusals: _Optional[str] = ...) -> None: ...

class ReportConfigurationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Kill(_message.Message):
    __slots__ = ("id", "subject", "org", "name", "reason", "state", "killed_by", "proposed_at", "killed_at", "lifted_by", "lift_reason", "lifted_at", "approvals_missing", "proposal_ends_at")
    class Subject(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SUBJECT_UNSPECIFIED: _ClassVar[Kill.Subject]
        KEY: _ClassVar[Kill.Subject]
        DESK: _ClassVar[Kill.Subject]
        MODEL: _ClassVar[Kill.Subject]
        WORKFLOW: _ClassVar[Kill.Subject]
    SUBJECT_UNSPECIFIED: Kill.Subject
    KEY: Kill.Subject
    DESK: Kill.Subject
    MODEL: Kill.Subject
    WORKFLOW: Kill.Subject
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Kill.State]
        PROPOSED: _ClassVar[Kill.State]
        ACTIVE: _ClassVar[Kill.State]
        LIFTED: _ClassVar[Kill.State]
        WITHDRAWN: _ClassVar[Kill.State]
        EXPIRED: _ClassVar[Kill.State]
    STATE_UNSPECIFIED: Kill.State
    PROPOSED: Kill.State
    ACTIVE: Kill.State
    LIFTED: Kill.State
    WITHDRAWN: Kill.State
    EXPIRED: Kill.State
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KILLED_BY_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_AT_FIELD_NUMBER: _ClassVar[int]
    KILLED_AT_FIELD_NUMBER: _ClassVar[int]
    LIFTED_BY_FIELD_NUMBER: _ClassVar[int]
    LIFT_REASON_FIELD_NUMBER: _ClassVar[int]
    LIFTED_AT_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_MISSING_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    subject: Kill.Subject
    org: str
    name: str
    reason: str
    state: Kill.State
    killed_by: _containers.RepeatedScalarFieldContainer[str]
    proposed_at: _timestamp_pb2.Timestamp
    killed_at: _timestamp_pb2.Timestamp
    lifted_by: _containers.RepeatedScalarFieldContainer[str]
    lift_reason: str
    lifted_at: _timestamp_pb2.Timestamp
    approvals_missing: int
    proposal_ends_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., subject: _Optional[_Union[Kill.Subject, str]] = ..., org: _Optional[str] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ..., state: _Optional[_Union[Kill.State, str]] = ..., killed_by: _Optional[_Iterable[str]] = ..., proposed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., killed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lifted_by: _Optional[_Iterable[str]] = ..., lift_reason: _Optional[str] = ..., lifted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., approvals_missing: _Optional[int] = ..., proposal_ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateKillRequest(_message.Message):
    __slots__ = ("subject", "name", "org", "reason")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    subject: Kill.Subject
    name: str
    org: str
    reason: str
    def __init__(self, subject: _Optional[_Union[Kill.Subject, str]] = ..., name: _Optional[str] = ..., org: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListKillsRequest(_message.Message):
    __slots__ = ("all",)
    ALL_FIELD_NUMBER: _ClassVar[int]
    all: bool
    def __init__(self, all: _Optional[bool] = ...) -> None: ...

class Kills(_message.Message):
    __slots__ = ("kills",)
    KILLS_FIELD_NUMBER: _ClassVar[int]
    kills: _containers.RepeatedCompositeFieldContainer[Kill]
    def __init__(self, kills: _Optional[_Iterable[_Union[Kill, _Mapping]]] = ...) -> None: ...

class GetKillRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ApproveKillRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class LiftKillRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WatchKillsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
