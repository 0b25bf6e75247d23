import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.models.v1 import experiments_pb2 as _experiments_pb2
from drw.api.models.v1 import experiment_metrics_pb2 as _experiment_metrics_pb2
from drw.api.models.v1 import rollouts_pb2 as _rollouts_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class ChatRequest(_message.Message):
    __slots__ = ("model", "messages", "max_tokens", "temperature", "seed", "stop", "json_schema", "user", "session", "response_id", "assignment")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    max_tokens: int
    temperature: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    json_schema: str
    user: str
    session: str
    response_id: str
    assignment: CallAssignment
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., json_schema: _Optional[str] = ..., user: _Optional[str] = ..., session: _Optional[str] = ..., response_id: _Optional[str] = ..., assignment: _Optional[_Union[CallAssignment, _Mapping]] = ...) -> None: ...

class CallAssignment(_message.Message):
    __slots__ = ("experiment", "name", "unit", "arm", "arm_name", "treatment")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    ARM_NAME_FIELD_NUMBER: _ClassVar[int]
    TREATMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: int
    name: str
    unit: bytes
    arm: int
    arm_name: str
    treatment: _experiments_pb2.Treatment
    def __init__(self, experiment: _Optional[int] = ..., name: _Optional[str] = ..., unit: _Optional[bytes] = ..., arm: _Optional[int] = ..., arm_name: _Optional[str] = ..., treatment: _Optional[_Union[_experiments_pb2.Treatment, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class ChatChunk(_message.Message):
    __slots__ = ("text", "finish_reason", "usage", "model", "experiment")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    text: str
    finish_reason: str
    usage: Usage
    model: str
    experiment: str
    def __init__(self, text: _Optional[str] = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., model: _Optional[str] = ..., experiment: _Optional[str] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("model", "fresh_seconds", "timeout_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FRESH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    fresh_seconds: float
    timeout_seconds: float
    def __init__(self, model: _Optional[str] = ..., fresh_seconds: _Optional[float] = ..., timeout_seconds: _Optional[float] = ...) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ("probes",)
    PROBES_FIELD_NUMBER: _ClassVar[int]
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    def __init__(self, probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("model", "replica", "outcome", "latency_ms", "error", "at")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Probe.Outcome]
        ANSWERED: _ClassVar[Probe.Outcome]
        FAILED: _ClassVar[Probe.Outcome]
        FRESH: _ClassVar[Probe.Outcome]
        BUSY: _ClassVar[Probe.Outcome]
        COOLING_DOWN: _ClassVar[Probe.Outcome]
        SKIPPED: _ClassVar[Probe.Outcome]
    OUTCOME_UNSPECIFIED: Probe.Outcome
    ANSWERED: Probe.Outcome
    FAILED: Probe.Outcome
    FRESH: Probe.Outcome
    BUSY: Probe.Outcome
    COOLING_DOWN: Probe.Outcome
    SKIPPED: Probe.Outcome
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    model: str
    replica: str
    outcome: Probe.Outcome
    latency_ms: float
    error: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, model: _Optional[str] = ..., replica: _Optional[str] = ..., outcome: _Optional[_Union[Probe.Outcome, str]] = ..., latency_ms: _Optional[float] = ..., error: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchReplicasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Replicas(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    def __init__(self, replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("model", "name", "circuit", "succeeded", "failed", "error")
    class Circuit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CIRCUIT_UNSPECIFIED: _ClassVar[Replica.Circuit]
        CLOSED: _ClassVar[Replica.Circuit]
        HALF_OPEN: _ClassVar[Replica.Circuit]
        OPEN: _ClassVar[Replica.Circuit]
    CIRCUIT_UNSPECIFIED: Replica.Circuit
    CLOSED: Replica.Circuit
    HALF_OPEN: Replica.Circuit
    OPEN: Replica.Circuit
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    model: str
    name: str
    circuit: Replica.Circuit
    succeeded: int
    failed: int
    error: str
    def __init__(self, model: _Optional[str] = ..., name: _Optional[str] = ..., circuit: _Optional[_Union[Replica.Circuit, str]] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...
