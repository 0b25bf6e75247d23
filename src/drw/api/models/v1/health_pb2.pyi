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

class GetReportRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Report(_message.Message):
    __slots__ = ("healthy", "services", "models")
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    services: _containers.RepeatedCompositeFieldContainer[_kernel_pb2.ServiceStatus]
    models: _containers.RepeatedCompositeFieldContainer[ModelHealth]
    def __init__(self, healthy: _Optional[bool] = ..., services: _Optional[_Iterable[_Union[_kernel_pb2.ServiceStatus, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[ModelHealth, _Mapping]]] = ...) -> None: ...

class ModelHealth(_message.Message):
    __slots__ = ("model", "replica", "circuit", "probe", "latency_ms", "probed_at", "error")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    PROBED_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    model: str
    replica: str
    circuit: str
    probe: str
    latency_ms: float
    probed_at: _timestamp_pb2.Timestamp
    error: str
    def __init__(self, model: _Optional[str] = ..., replica: _Optional[str] = ..., circuit: _Optional[str] = ..., probe: _Optional[str] = ..., latency_ms: _Optional[float] = ..., probed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class ListSlosRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSlosResponse(_message.Message):
    __slots__ = ("slos",)
    SLOS_FIELD_NUMBER: _ClassVar[int]
    slos: _containers.RepeatedCompositeFieldContainer[Slo]
    def __init__(self, slos: _Optional[_Iterable[_Union[Slo, _Mapping]]] = ...) -> None: ...

class Slo(_message.Message):
    __slots__ = ("service", "objective", "target", "latency_ms", "requests", "bad", "budget_left", "burn_rates", "alert", "rule")
    class Alert(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ALERT_UNSPECIFIED: _ClassVar[Slo.Alert]
        NONE: _ClassVar[Slo.Alert]
        TICKET: _ClassVar[Slo.Alert]
        PAGE: _ClassVar[Slo.Alert]
    ALERT_UNSPECIFIED: Slo.Alert
    NONE: Slo.Alert
    TICKET: Slo.Alert
    PAGE: Slo.Alert
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BAD_FIELD_NUMBER: _ClassVar[int]
    BUDGET_LEFT_FIELD_NUMBER: _ClassVar[int]
    BURN_RATES_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    service: str
    objective: str
    target: float
    latency_ms: int
    requests: int
    bad: int
    budget_left: float
    burn_rates: _containers.RepeatedCompositeFieldContainer[BurnRate]
    alert: Slo.Alert
    rule: str
    def __init__(self, service: _Optional[str] = ..., objective: _Optional[str] = ..., target: _Optional[float] = ..., latency_ms: _Optional[int] = ..., requests: _Optional[int] = ..., bad: _Optional[int] = ..., budget_left: _Optional[float] = ..., burn_rates: _Optional[_Iterable[_Union[BurnRate, _Mapping]]] = ..., alert: _Optional[_Union[Slo.Alert, str]] = ..., rule: _Optional[str] = ...) -> None: ...

class BurnRate(_message.Message):
    __slots__ = ("window", "rate")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    window: str
    rate: float
    def __init__(self, window: _Optional[str] = ..., rate: _Optional[float] = ...) -> None: ...

class ListTransitionsRequest(_message.Message):
    __slots__ = ("service", "to", "page_size", "page_token")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    service: str
    to: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, service: _Optional[str] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., **kwargs) -> None: ...

class ListTransitionsResponse(_message.Message):
    __slots__ = ("transitions", "next_page_token")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    transitions: _containers.RepeatedCompositeFieldContainer[Transition]
    next_page_token: str
    def __init__(self, transitions: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Transition(_message.Message):
    __slots__ = ("service", "to", "detail", "at", "more")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    service: str
    to: _kernel_pb2.ServiceStatus.State
    detail: str
    at: _timestamp_pb2.Timestamp
    more: int
    def __init__(self, service: _Optional[str] = ..., to: _Optional[_Union[_kernel_pb2.ServiceStatus.State, str]] = ..., detail: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., more: _Optional[int] = ..., **kwargs) -> None: ...
