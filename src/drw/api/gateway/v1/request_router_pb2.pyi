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
    __slots__ = ("name", "path", "methods", "scopes", "upstream", "max_body_bytes", "idle_seconds", "models", "model_header", "headers", "tenants", "split", "fallbacks", "affinity", "pass_through", "upstream_model", "first_byte_ms", "total_ms", "origin")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MODEL_HEADER_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    PASS_THROUGH_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    upstream: str
    max_body_bytes: int
    idle_seconds: int
    models: _containers.RepeatedScalarFieldContainer[str]
    model_header: bool
    headers: _containers.RepeatedCompositeFieldContainer[HeaderMatch]
    tenants: _containers.RepeatedScalarFieldContainer[str]
    split: _containers.RepeatedCompositeFieldContainer[Share]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    affinity: _containers.RepeatedScalarFieldContainer[str]
    pass_through: bool
    upstream_model: str
    first_byte_ms: int
    total_ms: int
    origin: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., upstream: _Optional[str] = ..., max_body_bytes: _Optional[int] = ..., idle_seconds: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., model_header: _Optional[bool] = ..., headers: _Optional[_Iterable[_Union[HeaderMatch, _Mapping]]] = ..., tenants: _Optional[_Iterable[str]] = ..., split: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., affinity: _Optional[_Iterable[str]] = ..., pass_through: _Optional[bool] = ..., upstream_model: _Optional[str] = ..., first_byte_ms: _Optional[int] = ..., total_ms: _Optional[int] = ..., origin: _Optional[str] = ...) -> None: ...

class HeaderMatch(_message.Message):
    __slots__ = ("name", "exact", "prefix")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    name: str
    exact: str
    prefix: str
    def __init__(self, name: _Optional[str] = ..., exact: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("upstream", "weight")
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    upstream: str
    weight: int
    def __init__(self, upstream: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...

class DeleteRouteRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteRouteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExplainRouteRequest(_message.Message):
    __slots__ = ("method", "path", "headers", "model", "key", "desk")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    method: str
    path: str
    headers: _containers.ScalarMap[str, str]
    model: str
    key: str
    desk: str
    def __init__(self, method: _Optional[str] = ..., path: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., model: _Optional[str] = ..., key: _Optional[str] = ..., desk: _Optional[str] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("route", "why", "refused", "taken", "targets", "scopes", "org", "desk", "key", "requests_per_minute", "deadlines", "misses", "reads_body", "limits", "budgets", "models", "notes")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    DEADLINES_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    READS_BODY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    route: str
    why: str
    refused: str
    taken: Route
    targets: _containers.RepeatedCompositeFieldContainer[Target]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    org: str
    desk: str
    key: str
    requests_per_minute: int
    deadlines: _containers.RepeatedScalarFieldContainer[str]
    misses: _containers.RepeatedCompositeFieldContainer[Miss]
    reads_body: bool
    limits: _containers.RepeatedCompositeFieldContainer[Bound]
    budgets: _containers.RepeatedCompositeFieldContainer[_rate_limiting_pb2.Budget]
    models: _containers.RepeatedCompositeFieldContainer[Answering]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, route: _Optional[str] = ..., why: _Optional[str] = ..., refused: _Optional[str] = ..., taken: _Optional[_Union[Route, _Mapping]] = ..., targets: _Optional[_Iterable[_Union[Target, _Mapping]]] = ..., scopes: _Optional[_Iterable[str]] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., key: _Optional[str] = ..., requests_per_minute: _Optional[int] = ..., deadlines: _Optional[_Iterable[str]] = ..., misses: _Optional[_Iterable[_Union[Miss, _Mapping]]] = ..., reads_body: _Optional[bool] = ..., limits: _Optional[_Iterable[_Union[Bound, _Mapping]]] = ..., budgets: _Optional[_Iterable[_Union[_rate_limiting_pb2.Budget, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[Answering, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Bound(_message.Message):
    __slots__ = ("subject", "name", "what", "max", "tightest")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    TIGHTEST_FIELD_NUMBER: _ClassVar[int]
    subject: _rate_limiting_pb2.Block.Subject
    name: str
    what: str
    max: int
    tightest: bool
    def __init__(self, subject: _Optional[_Union[_rate_limiting_pb2.Block.Subject, str]] = ..., name: _Optional[str] = ..., what: _Optional[str] = ..., max: _Optional[int] = ..., tightest: _Optional[bool] = ...) -> None: ...

class Answering(_message.Message):
    __slots__ = ("model", "percent")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    percent: float
    def __init__(self, model: _Optional[str] = ..., percent: _Optional[float] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("upstream", "addresses", "percent", "fallback")
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    upstream: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    percent: float
    fallback: bool
    def __init__(self, upstream: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., percent: _Optional[float] = ..., fallback: _Optional[bool] = ...) -> None: ...

class Miss(_message.Message):
    __slots__ = ("route", "why")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    route: str
    why: str
    def __init__(self, route: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("version", "data_planes", "lost")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_PLANES_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    version: str
    data_planes: _containers.RepeatedCompositeFieldContainer[ConfigurationReport]
    lost: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., data_planes: _Optional[_Iterable[_Union[ConfigurationReport, _Mapping]]] = ..., lost: _Optional[_Iterable[str]] = ...) -> None: ...

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
    __slots__ = ("data_plane", "version", "error", "upstreams", "notes", "refusals", "limits_change")
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    UPSTREAMS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_CHANGE_FIELD_NUMBER: _ClassVar[int]
    data_plane: str
    version: str
    error: str
    upstreams: _containers.RepeatedCompositeFieldContainer[Health]
    notes: _containers.RepeatedScalarFieldContainer[str]
    refusals: str
    limits_change: int
    def __init__(self, data_plane: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ..., upstreams: _Optional[_Iterable[_Union[Health, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., refusals: _Optional[str] = ..., limits_change: _Optional[int] = ...) -> None: ...

class Health(_message.Message):
    __slots__ = ("upstream", "address", "circuit", "requests", "errors", "active")
    class Circuit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CIRCUIT_UNSPECIFIED: _ClassVar[Health.Circuit]
        CLOSED: _ClassVar[Health.Circuit]
        OPEN: _ClassVar[Health.Circuit]
        HALF_OPEN: _ClassVar[Health.Circuit]
    CIRCUIT_UNSPECIFIED: Health.Circuit
    CLOSED: Health.Circuit
    OPEN: Health.Circuit
    HALF_OPEN: Health.Circuit
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    upstream: str
    address: str
    circuit: Health.Circuit
    requests: int
    errors: int
    active: int
    def __init__(self, upstream: _Optional[str] = ..., address: _Optional[str] = ..., circuit: _Optional[_Union[Health.Circuit, str]] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., active: _Optional[int] = ...) -> None: ...

class ReportConfigurationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Kill(_message.Message):
    __slots__ = ("id", "subject", "org", "name", "reason", "state", "killed_by", "proposed_at", "killed_at", "lifted_by", "lift_reason", "lifted_at", "approvals_missing", "proposal_ends_at", "by_platform")
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
    BY_PLATFORM_FIELD_NUMBER: _ClassVar[int]
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
    by_platform: bool
    def __init__(self, id: _Optional[str] = ..., subject: _Optional[_Union[Kill.Subject, str]] = ..., org: _Optional[str] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ..., state: _Optional[_Union[Kill.State, str]] = ..., killed_by: _Optional[_Iterable[str]] = ..., proposed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., killed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lifted_by: _Optional[_Iterable[str]] = ..., lift_reason: _Optional[str] = ..., lifted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., approvals_missing: _Optional[int] = ..., proposal_ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., by_platform: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("all", "page_size", "page_token")
    ALL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    all: bool
    page_size: int
    page_token: str
    def __init__(self, all: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class Kills(_message.Message):
    __slots__ = ("kills", "next_page_token")
    KILLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    kills: _containers.RepeatedCompositeFieldContainer[Kill]
    next_page_token: str
    def __init__(self, kills: _Optional[_Iterable[_Union[Kill, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

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
