from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("id", "kind", "owned_by", "created", "engine", "context_length", "dimensions", "default", "licence", "targets", "fallbacks", "digest")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Model.Kind]
        CHAT: _ClassVar[Model.Kind]
        EMBEDDING: _ClassVar[Model.Kind]
        PREDICTIVE: _ClassVar[Model.Kind]
        RERANKER: _ClassVar[Model.Kind]
    KIND_UNSPECIFIED: Model.Kind
    CHAT: Model.Kind
    EMBEDDING: Model.Kind
    PREDICTIVE: Model.Kind
    RERANKER: Model.Kind
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
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[Model.Kind, str]] = ..., owned_by: _Optional[str] = ..., created: _Optional[int] = ..., engine: _Optional[str] = ..., context_length: _Optional[int] = ..., dimensions: _Optional[int] = ..., default: _Optional[bool] = ..., licence: _Optional[str] = ..., targets: _Optional[_Iterable[str]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("model", "base_url", "upstream_model", "api_key_variable", "max_prompt_tokens", "max_concurrent", "base_urls", "fallbacks", "deadlines", "prefill", "affinity", "sampling", "parameters", "takes_reasoning", "files", "folder", "inputs", "outputs", "permit", "runtime")
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
    runtime: Runtime
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., base_url: _Optional[str] = ..., upstream_model: _Optional[str] = ..., api_key_variable: _Optional[str] = ..., max_prompt_tokens: _Optional[int] = ..., max_concurrent: _Optional[int] = ..., base_urls: _Optional[_Iterable[str]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., deadlines: _Optional[_Union[Deadlines, _Mapping]] = ..., prefill: _Optional[str] = ..., affinity: _Optional[str] = ..., sampling: _Optional[_Mapping[str, float]] = ..., parameters: _Optional[_Iterable[str]] = ..., takes_reasoning: _Optional[bool] = ..., files: _Optional[_Iterable[_Union[ModelFile, _Mapping]]] = ..., folder: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., permit: _Optional[_Union[Permit, _Mapping]] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("name", "targets", "fallbacks", "total_seconds", "from_settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FROM_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    targets: _containers.RepeatedCompositeFieldContainer[WeightedTarget]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    total_seconds: float
    from_settings: bool
    def __init__(self, name: _Optional[str] = ..., targets: _Optional[_Iterable[_Union[WeightedTarget, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., total_seconds: _Optional[float] = ..., from_settings: _Optional[bool] = ...) -> None: ...

class PromoteAliasRequest(_message.Message):
    __slots__ = ("alias", "model", "rollout")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    alias: str
    model: str
    rollout: str
    def __init__(self, alias: _Optional[str] = ..., model: _Optional[str] = ..., rollout: _Optional[str] = ...) -> None: ...

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
