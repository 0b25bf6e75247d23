import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.models.v1 import versions_pb2 as _versions_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("id", "kind", "owned_by", "created", "engine", "context_length", "dimensions", "default", "licence", "targets", "fallbacks", "digest", "replicas")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Model.Kind]
        CHAT: _ClassVar[Model.Kind]
        EMBEDDING: _ClassVar[Model.Kind]
        PREDICTIVE: _ClassVar[Model.Kind]
        RERANKER: _ClassVar[Model.Kind]
        MODERATION: _ClassVar[Model.Kind]
    KIND_UNSPECIFIED: Model.Kind
    CHAT: Model.Kind
    EMBEDDING: Model.Kind
    PREDICTIVE: Model.Kind
    RERANKER: Model.Kind
    MODERATION: Model.Kind
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OWNED_BY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: Model.Kind
    owned_by: str
    created: int
    engine: str
    context_length: int
    dimensions: int
    default: bool
    licence: str
    targets: _containers.RepeatedScalarFieldContainer[str]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaState]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[Model.Kind, str]] = ..., owned_by: _Optional[str] = ..., created: _Optional[int] = ..., engine: _Optional[str] = ..., context_length: _Optional[int] = ..., dimensions: _Optional[int] = ..., default: _Optional[bool] = ..., licence: _Optional[str] = ..., targets: _Optional[_Iterable[str]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[ReplicaState, _Mapping]]] = ...) -> None: ...

class ReplicaState(_message.Message):
    __slots__ = ("name", "status", "serves", "latency_seconds", "checked_at", "error")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[ReplicaState.Status]
        HEALTHY: _ClassVar[ReplicaState.Status]
        UNREACHABLE: _ClassVar[ReplicaState.Status]
        WRONG_MODEL: _ClassVar[ReplicaState.Status]
    STATUS_UNSPECIFIED: ReplicaState.Status
    HEALTHY: ReplicaState.Status
    UNREACHABLE: ReplicaState.Status
    WRONG_MODEL: ReplicaState.Status
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVES_FIELD_NUMBER: _ClassVar[int]
    LATENCY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: ReplicaState.Status
    serves: _containers.RepeatedScalarFieldContainer[str]
    latency_seconds: float
    checked_at: _timestamp_pb2.Timestamp
    error: str
    def __init__(self, name: _Optional[str] = ..., status: _Optional[_Union[ReplicaState.Status, str]] = ..., serves: _Optional[_Iterable[str]] = ..., latency_seconds: _Optional[float] = ..., checked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ResolveModelRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ResolvedModel(_message.Message):
    __slots__ = ("model", "base_url", "upstream_model", "api_key_variable", "max_prompt_tokens", "max_concurrent", "base_urls", "fallbacks", "deadlines", "prefill", "affinity", "sampling", "parameters", "takes_reasoning", "files", "folder", "inputs", "outputs", "permit", "org", "price", "runtime")
    class SamplingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_URL_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    API_KEY_VARIABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    BASE_URLS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    DEADLINES_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TAKES_REASONING_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    PERMIT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    model: Model
    base_url: str
    upstream_model: str
    api_key_variable: str
    max_prompt_tokens: int
    max_concurrent: int
    base_urls: _containers.RepeatedScalarFieldContainer[str]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    deadlines: Deadlines
    prefill: str
    affinity: str
    sampling: _containers.ScalarMap[str, float]
    parameters: _containers.RepeatedScalarFieldContainer[str]
    takes_reasoning: bool
    files: _containers.RepeatedCompositeFieldContainer[ModelFile]
    folder: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    permit: Permit
    org: str
    price: _versions_pb2.ModelPrice
    runtime: Runtime
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., base_url: _Optional[str] = ..., upstream_model: _Optional[str] = ..., api_key_variable: _Optional[str] = ..., max_prompt_tokens: _Optional[int] = ..., max_concurrent: _Optional[int] = ..., base_urls: _Optional[_Iterable[str]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., deadlines: _Optional[_Union[Deadlines, _Mapping]] = ..., prefill: _Optional[str] = ..., affinity: _Optional[str] = ..., sampling: _Optional[_Mapping[str, float]] = ..., parameters: _Optional[_Iterable[str]] = ..., takes_reasoning: _Optional[bool] = ..., files: _Optional[_Iterable[_Union[ModelFile, _Mapping]]] = ..., folder: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., permit: _Optional[_Union[Permit, _Mapping]] = ..., org: _Optional[str] = ..., price: _Optional[_Union[_versions_pb2.ModelPrice, _Mapping]] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("memory_mib", "threads", "max_batch", "max_batch_delay_ms")
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    memory_mib: int
    threads: int
    max_batch: int
    max_batch_delay_ms: float
    def __init__(self, memory_mib: _Optional[int] = ..., threads: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_batch_delay_ms: _Optional[float] = ...) -> None: ...

class Permit(_message.Message):
    __slots__ = ("validation", "expires_at")
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    validation: str
    expires_at: int
    def __init__(self, validation: _Optional[str] = ..., expires_at: _Optional[int] = ...) -> None: ...

class ModelFile(_message.Message):
    __slots__ = ("path", "sha256", "size")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    size: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ReadModelFileRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ModelFileChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Deadlines(_message.Message):
    __slots__ = ("connect_seconds", "first_token_seconds", "between_tokens_seconds", "total_seconds")
    CONNECT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BETWEEN_TOKENS_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    connect_seconds: float
    first_token_seconds: float
    between_tokens_seconds: float
    total_seconds: float
    def __init__(self, connect_seconds: _Optional[float] = ..., first_token_seconds: _Optional[float] = ..., between_tokens_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class ResolvePlanRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("model", "weight")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    model: ResolvedModel
    weight: int
    def __init__(self, model: _Optional[_Union[ResolvedModel, _Mapping]] = ..., weight: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("id", "targets", "fallbacks", "total_seconds")
    ID_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    targets: _containers.RepeatedCompositeFieldContainer[Target]
    fallbacks: _containers.RepeatedCompositeFieldContainer[ResolvedModel]
    total_seconds: float
    def __init__(self, id: _Optional[str] = ..., targets: _Optional[_Iterable[_Union[Target, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[_Union[ResolvedModel, _Mapping]]] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class WatchAliasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AliasesChanged(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WeightedTarget(_message.Message):
    __slots__ = ("model", "weight")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    model: str
    weight: int
    def __init__(self, model: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("name", "targets", "fallbacks", "total_seconds", "from_settings", "owner")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FROM_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    name: str
    targets: _containers.RepeatedCompositeFieldContainer[WeightedTarget]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    total_seconds: float
    from_settings: bool
    owner: str
    def __init__(self, name: _Optional[str] = ..., targets: _Optional[_Iterable[_Union[WeightedTarget, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., total_seconds: _Optional[float] = ..., from_settings: _Optional[bool] = ..., owner: _Optional[str] = ...) -> None: ...

class PromoteAliasRequest(_message.Message):
    __slots__ = ("alias", "model", "rollout", "org")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    alias: str
    model: str
    rollout: str
    org: str
    def __init__(self, alias: _Optional[str] = ..., model: _Optional[str] = ..., rollout: _Optional[str] = ..., org: _Optional[str] = ...) -> None: ...

class ListAliasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAliasesResponse(_message.Message):
    __slots__ = ("aliases",)
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    def __init__(self, aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("id", "model", "digest", "kind", "engine", "stage", "owner", "licence", "description", "lineage", "price", "files", "endpoint", "context_length", "inputs", "outputs", "evaluations", "validations", "permit", "blocked", "aliases", "registered_by", "registered_at", "retired_at", "retire_reason", "walls", "signer", "format", "architecture", "parameters", "files_deleted_at", "files_deleted_by")
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STAGE_UNSPECIFIED: _ClassVar[ModelVersion.Stage]
        REGISTERED: _ClassVar[ModelVersion.Stage]
        VALIDATED: _ClassVar[ModelVersion.Stage]
        APPROVED: _ClassVar[ModelVersion.Stage]
        LIVE: _ClassVar[ModelVersion.Stage]
        RETIRED: _ClassVar[ModelVersion.Stage]
    STAGE_UNSPECIFIED: ModelVersion.Stage
    REGISTERED: ModelVersion.Stage
    VALIDATED: ModelVersion.Stage
    APPROVED: ModelVersion.Stage
    LIVE: ModelVersion.Stage
    RETIRED: ModelVersion.Stage
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATIONS_FIELD_NUMBER: _ClassVar[int]
    PERMIT_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_BY_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    RETIRED_AT_FIELD_NUMBER: _ClassVar[int]
    RETIRE_REASON_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FILES_DELETED_AT_FIELD_NUMBER: _ClassVar[int]
    FILES_DELETED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    digest: str
    kind: Model.Kind
    engine: str
    stage: ModelVersion.Stage
    owner: str
    licence: str
    description: str
    lineage: _versions_pb2.Lineage
    price: _versions_pb2.ModelPrice
    files: _containers.RepeatedCompositeFieldContainer[ModelFile]
    endpoint: _versions_pb2.VersionEndpoint
    context_length: int
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    evaluations: _containers.RepeatedCompositeFieldContainer[_versions_pb2.Evaluation]
    validations: _containers.RepeatedCompositeFieldContainer[_versions_pb2.Validation]
    permit: Permit
    blocked: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    registered_by: str
    registered_at: _timestamp_pb2.Timestamp
    retired_at: _timestamp_pb2.Timestamp
    retire_reason: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    signer: str
    format: str
    architecture: str
    parameters: int
    files_deleted_at: _timestamp_pb2.Timestamp
    files_deleted_by: str
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., kind: _Optional[_Union[Model.Kind, str]] = ..., engine: _Optional[str] = ..., stage: _Optional[_Union[ModelVersion.Stage, str]] = ..., owner: _Optional[str] = ..., licence: _Optional[str] = ..., description: _Optional[str] = ..., lineage: _Optional[_Union[_versions_pb2.Lineage, _Mapping]] = ..., price: _Optional[_Union[_versions_pb2.ModelPrice, _Mapping]] = ..., files: _Optional[_Iterable[_Union[ModelFile, _Mapping]]] = ..., endpoint: _Optional[_Union[_versions_pb2.VersionEndpoint, _Mapping]] = ..., context_length: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., evaluations: _Optional[_Iterable[_Union[_versions_pb2.Evaluation, _Mapping]]] = ..., validations: _Optional[_Iterable[_Union[_versions_pb2.Validation, _Mapping]]] = ..., permit: _Optional[_Union[Permit, _Mapping]] = ..., blocked: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., registered_by: _Optional[str] = ..., registered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retired_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retire_reason: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., signer: _Optional[str] = ..., format: _Optional[str] = ..., architecture: _Optional[str] = ..., parameters: _Optional[int] = ..., files_deleted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., files_deleted_by: _Optional[str] = ...) -> None: ...

class RegisterVersionRequest(_message.Message):
    __slots__ = ("model", "files", "endpoint", "kind", "engine", "owner", "licence", "lineage", "price", "evaluations", "description", "walls", "signature_sha256")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_SHA256_FIELD_NUMBER: _ClassVar[int]
    model: str
    files: _containers.RepeatedCompositeFieldContainer[ModelFile]
    endpoint: _versions_pb2.VersionEndpoint
    kind: Model.Kind
    engine: str
    owner: str
    licence: str
    lineage: _versions_pb2.Lineage
    price: _versions_pb2.ModelPrice
    evaluations: _containers.RepeatedCompositeFieldContainer[_versions_pb2.Evaluation]
    description: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    signature_sha256: str
    def __init__(self, model: _Optional[str] = ..., files: _Optional[_Iterable[_Union[ModelFile, _Mapping]]] = ..., endpoint: _Optional[_Union[_versions_pb2.VersionEndpoint, _Mapping]] = ..., kind: _Optional[_Union[Model.Kind, str]] = ..., engine: _Optional[str] = ..., owner: _Optional[str] = ..., licence: _Optional[str] = ..., lineage: _Optional[_Union[_versions_pb2.Lineage, _Mapping]] = ..., price: _Optional[_Union[_versions_pb2.ModelPrice, _Mapping]] = ..., evaluations: _Optional[_Iterable[_Union[_versions_pb2.Evaluation, _Mapping]]] = ..., description: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ..., signature_sha256: _Optional[str] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("model", "stage", "kind", "page_size", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    stage: ModelVersion.Stage
    kind: Model.Kind
    page_size: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., stage: _Optional[_Union[ModelVersion.Stage, str]] = ..., kind: _Optional[_Union[Model.Kind, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetVersionBomRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetVersionBomResponse(_message.Message):
    __slots__ = ("bom",)
    BOM_FIELD_NUMBER: _ClassVar[int]
    bom: _kernel_pb2.Json
    def __init__(self, bom: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...
