import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lineage(_message.Message):
    __slots__ = ("data", "parent", "training_run")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedScalarFieldContainer[str]
    parent: str
    training_run: str
    def __init__(self, data: _Optional[_Iterable[str]] = ..., parent: _Optional[str] = ..., training_run: _Optional[str] = ...) -> None: ...

class ModelPrice(_message.Message):
    __slots__ = ("prompt_usd_per_million", "completion_usd_per_million")
    PROMPT_USD_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_USD_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    prompt_usd_per_million: str
    completion_usd_per_million: str
    def __init__(self, prompt_usd_per_million: _Optional[str] = ..., completion_usd_per_million: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("suite", "data", "metrics", "by", "at")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SUITE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    suite: str
    data: str
    metrics: _containers.ScalarMap[str, float]
    by: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, suite: _Optional[str] = ..., data: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., by: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class VersionEndpoint(_message.Message):
    __slots__ = ("base_urls", "upstream_model", "api_key_variable", "context_length")
    BASE_URLS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    API_KEY_VARIABLE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    base_urls: _containers.RepeatedScalarFieldContainer[str]
    upstream_model: str
    api_key_variable: str
    context_length: int
    def __init__(self, base_urls: _Optional[_Iterable[str]] = ..., upstream_model: _Optional[str] = ..., api_key_variable: _Optional[str] = ..., context_length: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("title", "severity", "due_at", "resolved")
    class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SEVERITY_UNSPECIFIED: _ClassVar[Finding.Severity]
        LOW: _ClassVar[Finding.Severity]
        MEDIUM: _ClassVar[Finding.Severity]
        HIGH: _ClassVar[Finding.Severity]
    SEVERITY_UNSPECIFIED: Finding.Severity
    LOW: Finding.Severity
    MEDIUM: Finding.Severity
    HIGH: Finding.Severity
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    DUE_AT_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    title: str
    severity: Finding.Severity
    due_at: _timestamp_pb2.Timestamp
    resolved: bool
    def __init__(self, title: _Optional[str] = ..., severity: _Optional[_Union[Finding.Severity, str]] = ..., due_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., resolved: _Optional[bool] = ...) -> None: ...

class ValidationRecord(_message.Message):
    __slots__ = ("scope", "scope_reason", "purpose", "exposure", "materiality", "owner", "assumptions", "limits", "findings", "expires_at", "review_triggers")
    class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCOPE_UNSPECIFIED: _ClassVar[ValidationRecord.Scope]
        IN_SCOPE: _ClassVar[ValidationRecord.Scope]
        NOT_IN_SCOPE: _ClassVar[ValidationRecord.Scope]
    SCOPE_UNSPECIFIED: ValidationRecord.Scope
    IN_SCOPE: ValidationRecord.Scope
    NOT_IN_SCOPE: ValidationRecord.Scope
    class Materiality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MATERIALITY_UNSPECIFIED: _ClassVar[ValidationRecord.Materiality]
        LOW: _ClassVar[ValidationRecord.Materiality]
        MEDIUM: _ClassVar[ValidationRecord.Materiality]
        HIGH: _ClassVar[ValidationRecord.Materiality]
    MATERIALITY_UNSPECIFIED: ValidationRecord.Materiality
    LOW: ValidationRecord.Materiality
    MEDIUM: ValidationRecord.Materiality
    HIGH: ValidationRecord.Materiality
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_REASON_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    MATERIALITY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ASSUMPTIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REVIEW_TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    scope: ValidationRecord.Scope
    scope_reason: str
    purpose: str
    exposure: str
    materiality: ValidationRecord.Materiality
    owner: str
    assumptions: _containers.RepeatedScalarFieldContainer[str]
    limits: _containers.RepeatedScalarFieldContainer[str]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    expires_at: _timestamp_pb2.Timestamp
    review_triggers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[ValidationRecord.Scope, str]] = ..., scope_reason: _Optional[str] = ..., purpose: _Optional[str] = ..., exposure: _Optional[str] = ..., materiality: _Optional[_Union[ValidationRecord.Materiality, str]] = ..., owner: _Optional[str] = ..., assumptions: _Optional[_Iterable[str]] = ..., limits: _Optional[_Iterable[str]] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., review_triggers: _Optional[_Iterable[str]] = ...) -> None: ...

class Validation(_message.Message):
    __slots__ = ("id", "record", "validator", "submitted_at", "approved_by", "approved_at", "superseded_at", "revoked_by", "revoked_at", "revoke_reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    VALIDATOR_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    APPROVED_AT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_BY_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKE_REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    record: ValidationRecord
    validator: str
    submitted_at: _timestamp_pb2.Timestamp
    approved_by: str
    approved_at: _timestamp_pb2.Timestamp
    superseded_at: _timestamp_pb2.Timestamp
    revoked_by: str
    revoked_at: _timestamp_pb2.Timestamp
    revoke_reason: str
    def __init__(self, id: _Optional[str] = ..., record: _Optional[_Union[ValidationRecord, _Mapping]] = ..., validator: _Optional[str] = ..., submitted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., approved_by: _Optional[str] = ..., approved_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., superseded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoked_by: _Optional[str] = ..., revoked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_reason: _Optional[str] = ...) -> None: ...

class AddEvaluationRequest(_message.Message):
    __slots__ = ("id", "evaluation", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    evaluation: Evaluation
    request_id: str
    def __init__(self, id: _Optional[str] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ValidateVersionRequest(_message.Message):
    __slots__ = ("id", "record")
    ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    id: str
    record: ValidationRecord
    def __init__(self, id: _Optional[str] = ..., record: _Optional[_Union[ValidationRecord, _Mapping]] = ...) -> None: ...

class RevokeValidationRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ApproveVersionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RetireVersionRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteVersionFilesRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class GetVersionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Promotion(_message.Message):
    __slots__ = ("id", "alias", "version", "reason", "state", "requested_by", "requested_at", "decided_by", "decided_at", "decision_reason")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Promotion.State]
        PENDING: _ClassVar[Promotion.State]
        APPROVED: _ClassVar[Promotion.State]
        REJECTED: _ClassVar[Promotion.State]
    STATE_UNSPECIFIED: Promotion.State
    PENDING: Promotion.State
    APPROVED: Promotion.State
    REJECTED: Promotion.State
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_AT_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    DECISION_REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    alias: str
    version: str
    reason: str
    state: Promotion.State
    requested_by: str
    requested_at: _timestamp_pb2.Timestamp
    decided_by: str
    decided_at: _timestamp_pb2.Timestamp
    decision_reason: str
    def __init__(self, id: _Optional[str] = ..., alias: _Optional[str] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ..., state: _Optional[_Union[Promotion.State, str]] = ..., requested_by: _Optional[str] = ..., requested_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., decided_by: _Optional[str] = ..., decided_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., decision_reason: _Optional[str] = ...) -> None: ...

class CreatePromotionRequest(_message.Message):
    __slots__ = ("alias", "version", "reason", "request_id")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: str
    reason: str
    request_id: str
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ApprovePromotionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RejectPromotionRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListPromotionsRequest(_message.Message):
    __slots__ = ("alias", "state", "page_size", "page_token")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    alias: str
    state: Promotion.State
    page_size: int
    page_token: str
    def __init__(self, alias: _Optional[str] = ..., state: _Optional[_Union[Promotion.State, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPromotionsResponse(_message.Message):
    __slots__ = ("promotions", "next_page_token")
    PROMOTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    promotions: _containers.RepeatedCompositeFieldContainer[Promotion]
    next_page_token: str
    def __init__(self, promotions: _Optional[_Iterable[_Union[Promotion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RollbackAliasRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class GetAliasHistoryRequest(_message.Message):
    __slots__ = ("name", "at", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    at: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class AliasEntry(_message.Message):
    __slots__ = ("targets", "fallbacks", "valid_from", "valid_to", "changed_by", "reason", "promotion", "owner", "deleted")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    VALID_FROM_FIELD_NUMBER: _ClassVar[int]
    VALID_TO_FIELD_NUMBER: _ClassVar[int]
    CHANGED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[AliasTarget]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    valid_from: _timestamp_pb2.Timestamp
    valid_to: _timestamp_pb2.Timestamp
    changed_by: str
    reason: str
    promotion: str
    owner: str
    deleted: bool
    def __init__(self, targets: _Optional[_Iterable[_Union[AliasTarget, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., valid_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., valid_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed_by: _Optional[str] = ..., reason: _Optional[str] = ..., promotion: _Optional[str] = ..., owner: _Optional[str] = ..., deleted: _Optional[bool] = ...) -> None: ...

class AliasTarget(_message.Message):
    __slots__ = ("model", "weight", "digest")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    model: str
    weight: int
    digest: str
    def __init__(self, model: _Optional[str] = ..., weight: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class GetAliasHistoryResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AliasEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[AliasEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
