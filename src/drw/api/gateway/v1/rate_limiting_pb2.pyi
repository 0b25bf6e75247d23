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
    __slots__ = ("key", "requests_per_minute", "org", "desk", "expires_at", "subject", "model", "tokens_per_minute", "concurrent", "algorithm", "when_lost", "counted_as", "pending")
    class Algorithm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ALGORITHM_UNSPECIFIED: _ClassVar[Limit.Algorithm]
        FIXED: _ClassVar[Limit.Algorithm]
        SLIDING: _ClassVar[Limit.Algorithm]
    ALGORITHM_UNSPECIFIED: Limit.Algorithm
    FIXED: Limit.Algorithm
    SLIDING: Limit.Algorithm
    class WhenLost(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WHEN_LOST_UNSPECIFIED: _ClassVar[Limit.WhenLost]
        FAIL_CLOSED: _ClassVar[Limit.WhenLost]
        LOCAL_SHARE: _ClassVar[Limit.WhenLost]
    WHEN_LOST_UNSPECIFIED: Limit.WhenLost
    FAIL_CLOSED: Limit.WhenLost
    LOCAL_SHARE: Limit.WhenLost
    KEY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    WHEN_LOST_FIELD_NUMBER: _ClassVar[int]
    COUNTED_AS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    key: str
    requests_per_minute: int
    org: str
    desk: str
    expires_at: _timestamp_pb2.Timestamp
    subject: Block.Subject
    model: str
    tokens_per_minute: int
    concurrent: int
    algorithm: Limit.Algorithm
    when_lost: Limit.WhenLost
    counted_as: str
    pending: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[str] = ..., requests_per_minute: _Optional[int] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., subject: _Optional[_Union[Block.Subject, str]] = ..., model: _Optional[str] = ..., tokens_per_minute: _Optional[int] = ..., concurrent: _Optional[int] = ..., algorithm: _Optional[_Union[Limit.Algorithm, str]] = ..., when_lost: _Optional[_Union[Limit.WhenLost, str]] = ..., counted_as: _Optional[str] = ..., pending: _Optional[_Iterable[str]] = ...) -> None: ...

class KeyOwner(_message.Message):
    __slots__ = ("key", "org", "desk", "expires_at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    key: str
    org: str
    desk: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AnnounceKeysRequest(_message.Message):
    __slots__ = ("owners", "external")
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    owners: _containers.RepeatedCompositeFieldContainer[KeyOwner]
    external: bool
    def __init__(self, owners: _Optional[_Iterable[_Union[KeyOwner, _Mapping]]] = ..., external: _Optional[bool] = ...) -> None: ...

class AnnounceKeysResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BindKeyRequest(_message.Message):
    __slots__ = ("key", "org", "desk", "expires_at", "requests_per_minute", "predecessor")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    PREDECESSOR_FIELD_NUMBER: _ClassVar[int]
    key: str
    org: str
    desk: str
    expires_at: _timestamp_pb2.Timestamp
    requests_per_minute: int
    predecessor: str
    def __init__(self, key: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., requests_per_minute: _Optional[int] = ..., predecessor: _Optional[str] = ...) -> None: ...

class UnbindKeyRequest(_message.Message):
    __slots__ = ("key", "org")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    key: str
    org: str
    def __init__(self, key: _Optional[str] = ..., org: _Optional[str] = ...) -> None: ...

class UnbindKeyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoveLimitRequest(_message.Message):
    __slots__ = ("subject", "org", "name")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    subject: Block.Subject
    org: str
    name: str
    def __init__(self, subject: _Optional[_Union[Block.Subject, str]] = ..., org: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ("org",)
    ORG_FIELD_NUMBER: _ClassVar[int]
    org: str
    def __init__(self, org: _Optional[str] = ...) -> None: ...

class WatchLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Limits(_message.Message):
    __slots__ = ("default_requests_per_minute", "limits", "blocks", "data_planes", "change")
    DEFAULT_REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DATA_PLANES_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    default_requests_per_minute: int
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    data_planes: int
    change: int
    def __init__(self, default_requests_per_minute: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ..., data_planes: _Optional[int] = ..., change: _Optional[int] = ...) -> None: ...

class ReportEnforcementRequest(_message.Message):
    __slots__ = ("data_planes", "gone")
    class DataPlane(_message.Message):
        __slots__ = ("name", "change")
        NAME_FIELD_NUMBER: _ClassVar[int]
        CHANGE_FIELD_NUMBER: _ClassVar[int]
        name: str
        change: int
        def __init__(self, name: _Optional[str] = ..., change: _Optional[int] = ...) -> None: ...
    DATA_PLANES_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    data_planes: _containers.RepeatedCompositeFieldContainer[ReportEnforcementRequest.DataPlane]
    gone: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, data_planes: _Optional[_Iterable[_Union[ReportEnforcementRequest.DataPlane, _Mapping]]] = ..., gone: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportEnforcementResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Budget(_message.Message):
    __slots__ = ("subject", "org", "name", "period", "unit", "amount", "spent", "reserved", "left", "resets_at")
    class Period(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PERIOD_UNSPECIFIED: _ClassVar[Budget.Period]
        DAY: _ClassVar[Budget.Period]
        MONTH: _ClassVar[Budget.Period]
        TOTAL: _ClassVar[Budget.Period]
    PERIOD_UNSPECIFIED: Budget.Period
    DAY: Budget.Period
    MONTH: Budget.Period
    TOTAL: Budget.Period
    class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNIT_UNSPECIFIED: _ClassVar[Budget.Unit]
        USD: _ClassVar[Budget.Unit]
        TOKENS: _ClassVar[Budget.Unit]
    UNIT_UNSPECIFIED: Budget.Unit
    USD: Budget.Unit
    TOKENS: Budget.Unit
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    subject: Block.Subject
    org: str
    name: str
    period: Budget.Period
    unit: Budget.Unit
    amount: str
    spent: str
    reserved: str
    left: str
    resets_at: _timestamp_pb2.Timestamp
    def __init__(self, subject: _Optional[_Union[Block.Subject, str]] = ..., org: _Optional[str] = ..., name: _Optional[str] = ..., period: _Optional[_Union[Budget.Period, str]] = ..., unit: _Optional[_Union[Budget.Unit, str]] = ..., amount: _Optional[str] = ..., spent: _Optional[str] = ..., reserved: _Optional[str] = ..., left: _Optional[str] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListBudgetsRequest(_message.Message):
    __slots__ = ("org",)
    ORG_FIELD_NUMBER: _ClassVar[int]
    org: str
    def __init__(self, org: _Optional[str] = ...) -> None: ...

class ListBudgetsResponse(_message.Message):
    __slots__ = ("budgets",)
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    def __init__(self, budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ...) -> None: ...

class Price(_message.Message):
    __slots__ = ("model", "version", "effective_from", "prompt_usd_per_million", "completion_usd_per_million")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FROM_FIELD_NUMBER: _ClassVar[int]
    PROMPT_USD_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_USD_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    effective_from: _timestamp_pb2.Timestamp
    prompt_usd_per_million: str
    completion_usd_per_million: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., effective_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., prompt_usd_per_million: _Optional[str] = ..., completion_usd_per_million: _Optional[str] = ...) -> None: ...

class ListPricesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPricesResponse(_message.Message):
    __slots__ = ("prices",)
    PRICES_FIELD_NUMBER: _ClassVar[int]
    prices: _containers.RepeatedCompositeFieldContainer[Price]
    def __init__(self, prices: _Optional[_Iterable[_Union[Price, _Mapping]]] = ...) -> None: ...

class GetSpendRequest(_message.Message):
    __slots__ = ("by", "since", "org")
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    by: str
    since: _timestamp_pb2.Timestamp
    org: str
    def __init__(self, by: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., org: _Optional[str] = ...) -> None: ...

class GetSpendResponse(_message.Message):
    __slots__ = ("by", "since", "lines", "usd")
    class Line(_message.Message):
        __slots__ = ("name", "calls", "prompt_tokens", "completion_tokens", "usd")
        NAME_FIELD_NUMBER: _ClassVar[int]
        CALLS_FIELD_NUMBER: _ClassVar[int]
        PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
        COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
        USD_FIELD_NUMBER: _ClassVar[int]
        name: str
        calls: int
        prompt_tokens: int
        completion_tokens: int
        usd: str
        def __init__(self, name: _Optional[str] = ..., calls: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., usd: _Optional[str] = ...) -> None: ...
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    USD_FIELD_NUMBER: _ClassVar[int]
    by: str
    since: _timestamp_pb2.Timestamp
    lines: _containers.RepeatedCompositeFieldContainer[GetSpendResponse.Line]
    usd: str
    def __init__(self, by: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lines: _Optional[_Iterable[_Union[GetSpendResponse.Line, _Mapping]]] = ..., usd: _Optional[str] = ...) -> None: ...

class WatchPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Policy(_message.Message):
    __slots__ = ("prices", "limits", "budgets")
    PRICES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    prices: _containers.RepeatedCompositeFieldContainer[Price]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    def __init__(self, prices: _Optional[_Iterable[_Union[Price, _Mapping]]] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ...) -> None: ...

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
    __slots__ = ("request_id", "org", "desk", "key", "model", "route", "upstream", "prompt_tokens", "completion_tokens", "counted", "status", "flags", "at", "trace_id", "bytes_in")
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
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
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
    bytes_in: int
    def __init__(self, request_id: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., key: _Optional[str] = ..., model: _Optional[str] = ..., route: _Optional[str] = ..., upstream: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., counted: _Optional[bool] = ..., status: _Optional[int] = ..., flags: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace_id: _Optional[str] = ..., bytes_in: _Optional[int] = ...) -> None: ...
