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

class Arm(_message.Message):
    __slots__ = ("name", "weight", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: int
    value: _kernel_pb2.Json
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[int] = ..., value: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "kind", "direction", "quantile", "cap", "lowest", "highest", "max_harm")
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
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    MAX_HARM_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: Metric.Kind
    direction: Metric.Direction
    quantile: float
    cap: float
    lowest: float
    highest: float
    max_harm: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Metric.Kind, str]] = ..., direction: _Optional[_Union[Metric.Direction, str]] = ..., quantile: _Optional[float] = ..., cap: _Optional[float] = ..., lowest: _Optional[float] = ..., highest: _Optional[float] = ..., max_harm: _Optional[float] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("name", "description", "arms", "metrics", "unit", "traffic_percent", "alpha", "walls", "state", "created_at", "started_at", "stopped_at", "stop_reason", "seed")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Experiment.State]
        DRAFT: _ClassVar[Experiment.State]
        RUNNING: _ClassVar[Experiment.State]
        STOPPED: _ClassVar[Experiment.State]
    STATE_UNSPECIFIED: Experiment.State
    DRAFT: Experiment.State
    RUNNING: Experiment.State
    STOPPED: Experiment.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    STOPPED_AT_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    unit: str
    traffic_percent: int
    alpha: float
    walls: _containers.RepeatedScalarFieldContainer[str]
    state: Experiment.State
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    stopped_at: _timestamp_pb2.Timestamp
    stop_reason: str
    seed: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., unit: _Optional[str] = ..., traffic_percent: _Optional[int] = ..., alpha: _Optional[float] = ..., walls: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[Experiment.State, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stopped_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stop_reason: _Optional[str] = ..., seed: _Optional[str] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments", "next_page_token")
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    next_page_token: str
    def __init__(self, experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetExperimentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StartExperimentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopExperimentRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteExperimentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteExperimentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AssignUnitRequest(_message.Message):
    __slots__ = ("name", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("arm", "value", "in_experiment")
    ARM_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    IN_EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    arm: str
    value: _kernel_pb2.Json
    in_experiment: bool
    def __init__(self, arm: _Optional[str] = ..., value: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., in_experiment: _Optional[bool] = ...) -> None: ...

class RecordExposuresRequest(_message.Message):
    __slots__ = ("name", "units")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    units: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., units: _Optional[_Iterable[str]] = ...) -> None: ...

class RecordExposuresResponse(_message.Message):
    __slots__ = ("added", "not_in_experiment")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    NOT_IN_EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    added: int
    not_in_experiment: int
    def __init__(self, added: _Optional[int] = ..., not_in_experiment: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("unit", "metric", "value", "denominator", "id")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DENOMINATOR_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    unit: str
    metric: str
    value: float
    denominator: float
    id: str
    def __init__(self, unit: _Optional[str] = ..., metric: _Optional[str] = ..., value: _Optional[float] = ..., denominator: _Optional[float] = ..., id: _Optional[str] = ...) -> None: ...

class RecordOutcomesRequest(_message.Message):
    __slots__ = ("name", "outcomes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    name: str
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, name: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class RecordOutcomesResponse(_message.Message):
    __slots__ = ("recorded", "duplicates", "not_exposed")
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    NOT_EXPOSED_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    duplicates: int
    not_exposed: int
    def __init__(self, recorded: _Optional[int] = ..., duplicates: _Optional[int] = ..., not_exposed: _Optional[int] = ...) -> None: ...

class GetResultsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

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

class Results(_message.Message):
    __slots__ = ("name", "state", "arms", "sample_ratio", "comparisons")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Experiment.State
    arms: _containers.RepeatedCompositeFieldContainer[ArmUnits]
    sample_ratio: SampleRatioCheck
    comparisons: _containers.RepeatedCompositeFieldContainer[Comparison]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Experiment.State, str]] = ..., arms: _Optional[_Iterable[_Union[ArmUnits, _Mapping]]] = ..., sample_ratio: _Optional[_Union[SampleRatioCheck, _Mapping]] = ..., comparisons: _Optional[_Iterable[_Union[Comparison, _Mapping]]] = ...) -> None: ...
