import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.models.v1 import experiment_metrics_pb2 as _experiment_metrics_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Rollout(_message.Message):
    __slots__ = ("name", "description", "alias", "model", "unit", "steps", "step_seconds", "step_units", "shadow_percent", "max_shadow_failures_percent", "guardrails", "state", "percent", "paused", "reason", "created_by", "approved_by", "created_at", "step_at", "ended_at")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Rollout.State]
        DRAFT: _ClassVar[Rollout.State]
        APPROVED: _ClassVar[Rollout.State]
        SHADOW: _ClassVar[Rollout.State]
        RAMP: _ClassVar[Rollout.State]
        PROMOTING: _ClassVar[Rollout.State]
        PROMOTED: _ClassVar[Rollout.State]
        ROLLED_BACK: _ClassVar[Rollout.State]
        CANCELLED: _ClassVar[Rollout.State]
    STATE_UNSPECIFIED: Rollout.State
    DRAFT: Rollout.State
    APPROVED: Rollout.State
    SHADOW: Rollout.State
    RAMP: Rollout.State
    PROMOTING: Rollout.State
    PROMOTED: Rollout.State
    ROLLED_BACK: Rollout.State
    CANCELLED: Rollout.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_UNITS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MAX_SHADOW_FAILURES_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STEP_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    alias: str
    model: str
    unit: str
    steps: _containers.RepeatedScalarFieldContainer[int]
    step_seconds: int
    step_units: int
    shadow_percent: int
    max_shadow_failures_percent: int
    guardrails: _containers.RepeatedCompositeFieldContainer[_experiment_metrics_pb2.Metric]
    state: Rollout.State
    percent: int
    paused: bool
    reason: str
    created_by: str
    approved_by: str
    created_at: _timestamp_pb2.Timestamp
    step_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., alias: _Optional[str] = ..., model: _Optional[str] = ..., unit: _Optional[str] = ..., steps: _Optional[_Iterable[int]] = ..., step_seconds: _Optional[int] = ..., step_units: _Optional[int] = ..., shadow_percent: _Optional[int] = ..., max_shadow_failures_percent: _Optional[int] = ..., guardrails: _Optional[_Iterable[_Union[_experiment_metrics_pb2.Metric, _Mapping]]] = ..., state: _Optional[_Union[Rollout.State, str]] = ..., percent: _Optional[int] = ..., paused: _Optional[bool] = ..., reason: _Optional[str] = ..., created_by: _Optional[str] = ..., approved_by: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., step_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts", "next_page_token")
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    next_page_token: str
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRolloutReportRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ApproveRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PauseRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResumeRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class AdvanceRolloutRequest(_message.Message):
    __slots__ = ("name", "from_percent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FROM_PERCENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    from_percent: int
    def __init__(self, name: _Optional[str] = ..., from_percent: _Optional[int] = ...) -> None: ...

class RollBackRolloutRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ShadowCalls(_message.Message):
    __slots__ = ("compared", "failed", "dropped", "same_text", "same_finish_reason", "length_ratio", "mean_ms", "primary_mean_ms")
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    SAME_TEXT_FIELD_NUMBER: _ClassVar[int]
    SAME_FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    LENGTH_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEAN_MS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_MEAN_MS_FIELD_NUMBER: _ClassVar[int]
    compared: int
    failed: int
    dropped: int
    same_text: int
    same_finish_reason: int
    length_ratio: float
    mean_ms: float
    primary_mean_ms: float
    def __init__(self, compared: _Optional[int] = ..., failed: _Optional[int] = ..., dropped: _Optional[int] = ..., same_text: _Optional[int] = ..., same_finish_reason: _Optional[int] = ..., length_ratio: _Optional[float] = ..., mean_ms: _Optional[float] = ..., primary_mean_ms: _Optional[float] = ...) -> None: ...

class RolloutTransition(_message.Message):
    __slots__ = ("id", "at", "action", "state", "percent", "actor", "reason", "numbers")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    id: int
    at: _timestamp_pb2.Timestamp
    action: str
    state: Rollout.State
    percent: int
    actor: str
    reason: str
    numbers: _kernel_pb2.Json
    def __init__(self, id: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., action: _Optional[str] = ..., state: _Optional[_Union[Rollout.State, str]] = ..., percent: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., numbers: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class RolloutReport(_message.Message):
    __slots__ = ("rollout", "arms", "sample_ratio", "comparisons", "delivery", "shadow", "waits_for", "history")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    arms: _containers.RepeatedCompositeFieldContainer[_experiment_metrics_pb2.ArmUnits]
    sample_ratio: _experiment_metrics_pb2.SampleRatioCheck
    comparisons: _containers.RepeatedCompositeFieldContainer[_experiment_metrics_pb2.Comparison]
    delivery: _experiment_metrics_pb2.Delivery
    shadow: ShadowCalls
    waits_for: str
    history: _containers.RepeatedCompositeFieldContainer[RolloutTransition]
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[_experiment_metrics_pb2.ArmUnits, _Mapping]]] = ..., sample_ratio: _Optional[_Union[_experiment_metrics_pb2.SampleRatioCheck, _Mapping]] = ..., comparisons: _Optional[_Iterable[_Union[_experiment_metrics_pb2.Comparison, _Mapping]]] = ..., delivery: _Optional[_Union[_experiment_metrics_pb2.Delivery, _Mapping]] = ..., shadow: _Optional[_Union[ShadowCalls, _Mapping]] = ..., waits_for: _Optional[str] = ..., history: _Optional[_Iterable[_Union[RolloutTransition, _Mapping]]] = ...) -> None: ...
