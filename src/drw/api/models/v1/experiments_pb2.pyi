import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.models.v1 import experiment_metrics_pb2 as _experiment_metrics_pb2
from drw.api.models.v1 import rollouts_pb2 as _rollouts_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from drw.api.models.v1.experiment_metrics_pb2 import Metric as Metric
from drw.api.models.v1.experiment_metrics_pb2 import ArmUnits as ArmUnits
from drw.api.models.v1.experiment_metrics_pb2 import SampleRatioCheck as SampleRatioCheck
from drw.api.models.v1.experiment_metrics_pb2 import Comparison as Comparison
from drw.api.models.v1.experiment_metrics_pb2 import Interval as Interval
from drw.api.models.v1.experiment_metrics_pb2 import Delivery as Delivery
from drw.api.models.v1.rollouts_pb2 import Rollout as Rollout
from drw.api.models.v1.rollouts_pb2 import ListRolloutsRequest as ListRolloutsRequest
from drw.api.models.v1.rollouts_pb2 import ListRolloutsResponse as ListRolloutsResponse
from drw.api.models.v1.rollouts_pb2 import GetRolloutRequest as GetRolloutRequest
from drw.api.models.v1.rollouts_pb2 import GetRolloutReportRequest as GetRolloutReportRequest
from drw.api.models.v1.rollouts_pb2 import ApproveRolloutRequest as ApproveRolloutRequest
from drw.api.models.v1.rollouts_pb2 import StartRolloutRequest as StartRolloutRequest
from drw.api.models.v1.rollouts_pb2 import PauseRolloutRequest as PauseRolloutRequest
from drw.api.models.v1.rollouts_pb2 import ResumeRolloutRequest as ResumeRolloutRequest
from drw.api.models.v1.rollouts_pb2 import AdvanceRolloutRequest as AdvanceRolloutRequest
from drw.api.models.v1.rollouts_pb2 import RollBackRolloutRequest as RollBackRolloutRequest
from drw.api.models.v1.rollouts_pb2 import ShadowCalls as ShadowCalls
from drw.api.models.v1.rollouts_pb2 import RolloutTransition as RolloutTransition
from drw.api.models.v1.rollouts_pb2 import RolloutReport as RolloutReport

DESCRIPTOR: _descriptor.FileDescriptor

class Parameters(_message.Message):
    __slots__ = ("temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "stop", "reasoning_effort")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    presence_penalty: float
    frequency_penalty: float
    stop: _containers.RepeatedScalarFieldContainer[str]
    reasoning_effort: str
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., max_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., stop: _Optional[_Iterable[str]] = ..., reasoning_effort: _Optional[str] = ...) -> None: ...

class RetrievalSettings(_message.Message):
    __slots__ = ("limit", "score_threshold", "auto_filters", "filter")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    AUTO_FILTERS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    limit: int
    score_threshold: float
    auto_filters: bool
    filter: _struct_pb2.Struct
    def __init__(self, limit: _Optional[int] = ..., score_threshold: _Optional[float] = ..., auto_filters: _Optional[bool] = ..., filter: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Treatment(_message.Message):
    __slots__ = ("model", "parameters", "system_prompt", "replace_system_prompt", "retrieval")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    REPLACE_SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_FIELD_NUMBER: _ClassVar[int]
    model: str
    parameters: Parameters
    system_prompt: str
    replace_system_prompt: bool
    retrieval: RetrievalSettings
    def __init__(self, model: _Optional[str] = ..., parameters: _Optional[_Union[Parameters, _Mapping]] = ..., system_prompt: _Optional[str] = ..., replace_system_prompt: _Optional[bool] = ..., retrieval: _Optional[_Union[RetrievalSettings, _Mapping]] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("name", "weight", "value", "treatment")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TREATMENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: int
    value: _kernel_pb2.Json
    treatment: Treatment
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[int] = ..., value: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., treatment: _Optional[_Union[Treatment, _Mapping]] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("name", "description", "arms", "metrics", "unit", "traffic_percent", "alpha", "walls", "state", "created_at", "started_at", "stopped_at", "stop_reason", "seed", "alias")
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
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    metrics: _containers.RepeatedCompositeFieldContainer[_experiment_metrics_pb2.Metric]
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
    alias: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_experiment_metrics_pb2.Metric, _Mapping]]] = ..., unit: _Optional[str] = ..., traffic_percent: _Optional[int] = ..., alpha: _Optional[float] = ..., walls: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[Experiment.State, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stopped_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stop_reason: _Optional[str] = ..., seed: _Optional[str] = ..., alias: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("unit", "metric", "value", "denominator", "id", "covariate")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DENOMINATOR_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    COVARIATE_FIELD_NUMBER: _ClassVar[int]
    unit: str
    metric: str
    value: float
    denominator: float
    id: str
    covariate: bool
    def __init__(self, unit: _Optional[str] = ..., metric: _Optional[str] = ..., value: _Optional[float] = ..., denominator: _Optional[float] = ..., id: _Optional[str] = ..., covariate: _Optional[bool] = ...) -> None: ...

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

class RecordFeedbackRequest(_message.Message):
    __slots__ = ("response_id", "metric", "value")
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    response_id: str
    metric: str
    value: float
    def __init__(self, response_id: _Optional[str] = ..., metric: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class RecordFeedbackResponse(_message.Message):
    __slots__ = ("experiments", "duplicate")
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedScalarFieldContainer[str]
    duplicate: bool
    def __init__(self, experiments: _Optional[_Iterable[str]] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ("name", "state", "arms", "sample_ratio", "comparisons", "delivery")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Experiment.State
    arms: _containers.RepeatedCompositeFieldContainer[_experiment_metrics_pb2.ArmUnits]
    sample_ratio: _experiment_metrics_pb2.SampleRatioCheck
    comparisons: _containers.RepeatedCompositeFieldContainer[_experiment_metrics_pb2.Comparison]
    delivery: _experiment_metrics_pb2.Delivery
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Experiment.State, str]] = ..., arms: _Optional[_Iterable[_Union[_experiment_metrics_pb2.ArmUnits, _Mapping]]] = ..., sample_ratio: _Optional[_Union[_experiment_metrics_pb2.SampleRatioCheck, _Mapping]] = ..., comparisons: _Optional[_Iterable[_Union[_experiment_metrics_pb2.Comparison, _Mapping]]] = ..., delivery: _Optional[_Union[_experiment_metrics_pb2.Delivery, _Mapping]] = ...) -> None: ...

class WatchRoutingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RoutedExperiment(_message.Message):
    __slots__ = ("key", "org", "desk", "walls", "name", "alias", "unit", "seed", "traffic_percent", "arms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    key: int
    org: str
    desk: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    name: str
    alias: str
    unit: str
    seed: str
    traffic_percent: int
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    def __init__(self, key: _Optional[int] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., alias: _Optional[str] = ..., unit: _Optional[str] = ..., seed: _Optional[str] = ..., traffic_percent: _Optional[int] = ..., arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ...) -> None: ...

class RoutedRollout(_message.Message):
    __slots__ = ("key", "name", "alias", "model", "unit", "seed", "percent", "shadow_percent")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_PERCENT_FIELD_NUMBER: _ClassVar[int]
    key: int
    name: str
    alias: str
    model: str
    unit: str
    seed: str
    percent: int
    shadow_percent: int
    def __init__(self, key: _Optional[int] = ..., name: _Optional[str] = ..., alias: _Optional[str] = ..., model: _Optional[str] = ..., unit: _Optional[str] = ..., seed: _Optional[str] = ..., percent: _Optional[int] = ..., shadow_percent: _Optional[int] = ...) -> None: ...

class Routing(_message.Message):
    __slots__ = ("experiments", "rollouts", "expires_at")
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[RoutedExperiment]
    rollouts: _containers.RepeatedCompositeFieldContainer[RoutedRollout]
    expires_at: int
    def __init__(self, experiments: _Optional[_Iterable[_Union[RoutedExperiment, _Mapping]]] = ..., rollouts: _Optional[_Iterable[_Union[RoutedRollout, _Mapping]]] = ..., expires_at: _Optional[int] = ...) -> None: ...
