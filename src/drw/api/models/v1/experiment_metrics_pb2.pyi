from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Metric(_message.Message):
    __slots__ = ("name", "kind", "direction", "quantile", "cap", "lowest", "highest", "max_harm", "source", "covariate")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Metric.Kind]
        MEAN: _ClassVar[Metric.Kind]
        RATIO: _ClassVar[Metric.Kind]
        PROPORTION: _ClassVar[Metric.Kind]
        QUANTILE: _ClassVar[Metric.Kind]
        SCORE: _ClassVar[Metric.Kind]
    KIND_UNSPECIFIED: Metric.Kind
    MEAN: Metric.Kind
    RATIO: Metric.Kind
    PROPORTION: Metric.Kind
    QUANTILE: Metric.Kind
    SCORE: Metric.Kind
    class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DIRECTION_UNSPECIFIED: _ClassVar[Metric.Direction]
        HIGHER_IS_BETTER: _ClassVar[Metric.Direction]
        LOWER_IS_BETTER: _ClassVar[Metric.Direction]
    DIRECTION_UNSPECIFIED: Metric.Direction
    HIGHER_IS_BETTER: Metric.Direction
    LOWER_IS_BETTER: Metric.Direction
    class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        API: _ClassVar[Metric.Source]
        FIRST_TOKEN_MS: _ClassVar[Metric.Source]
        TOTAL_MS: _ClassVar[Metric.Source]
        COST_USD: _ClassVar[Metric.Source]
        ERROR: _ClassVar[Metric.Source]
        TOKENS: _ClassVar[Metric.Source]
    API: Metric.Source
    FIRST_TOKEN_MS: Metric.Source
    TOTAL_MS: Metric.Source
    COST_USD: Metric.Source
    ERROR: Metric.Source
    TOKENS: Metric.Source
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    MAX_HARM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    COVARIATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: Metric.Kind
    direction: Metric.Direction
    quantile: float
    cap: float
    lowest: float
    highest: float
    max_harm: float
    source: Metric.Source
    covariate: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Metric.Kind, str]] = ..., direction: _Optional[_Union[Metric.Direction, str]] = ..., quantile: _Optional[float] = ..., cap: _Optional[float] = ..., lowest: _Optional[float] = ..., highest: _Optional[float] = ..., max_harm: _Optional[float] = ..., source: _Optional[_Union[Metric.Source, str]] = ..., covariate: _Optional[bool] = ...) -> None: ...

class ArmUnits(_message.Message):
    __slots__ = ("arm", "units")
    ARM_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    units: int
    def __init__(self, arm: _Optional[str] = ..., units: _Optional[int] = ...) -> None: ...

class SampleRatioCheck(_message.Message):
    __slots__ = ("mismatch", "p_value")
    MISMATCH_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    mismatch: bool
    p_value: float
    def __init__(self, mismatch: _Optional[bool] = ..., p_value: _Optional[float] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("arm", "metric", "verdict", "reason", "value", "control_value", "difference", "lift", "p_value", "guardrail_breached")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[Comparison.Verdict]
        NO_RESULT_YET: _ClassVar[Comparison.Verdict]
        UNDECIDED: _ClassVar[Comparison.Verdict]
        BETTER: _ClassVar[Comparison.Verdict]
        WORSE: _ClassVar[Comparison.Verdict]
    VERDICT_UNSPECIFIED: Comparison.Verdict
    NO_RESULT_YET: Comparison.Verdict
    UNDECIDED: Comparison.Verdict
    BETTER: Comparison.Verdict
    WORSE: Comparison.Verdict
    ARM_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_VALUE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    LIFT_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_BREACHED_FIELD_NUMBER: _ClassVar[int]
    arm: str
    metric: str
    verdict: Comparison.Verdict
    reason: str
    value: float
    control_value: float
    difference: Interval
    lift: Interval
    p_value: float
    guardrail_breached: bool
    def __init__(self, arm: _Optional[str] = ..., metric: _Optional[str] = ..., verdict: _Optional[_Union[Comparison.Verdict, str]] = ..., reason: _Optional[str] = ..., value: _Optional[float] = ..., control_value: _Optional[float] = ..., difference: _Optional[_Union[Interval, _Mapping]] = ..., lift: _Optional[_Union[Interval, _Mapping]] = ..., p_value: _Optional[float] = ..., guardrail_breached: _Optional[bool] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("estimate", "lower", "upper")
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    estimate: float
    lower: float
    upper: float
    def __init__(self, estimate: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("recorded", "lost", "not_assigned")
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    NOT_ASSIGNED_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    lost: int
    not_assigned: int
    def __init__(self, recorded: _Optional[int] = ..., lost: _Optional[int] = ..., not_assigned: _Optional[int] = ...) -> None: ...
