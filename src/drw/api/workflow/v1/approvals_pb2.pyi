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

class ListApprovalsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListApprovalsResponse(_message.Message):
    __slots__ = ("approvals",)
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    approvals: _containers.RepeatedCompositeFieldContainer[Approval]
    def __init__(self, approvals: _Optional[_Iterable[_Union[Approval, _Mapping]]] = ...) -> None: ...

class DecideApprovalRequest(_message.Message):
    __slots__ = ("run", "step", "decision", "comment", "values")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    run: str
    step: str
    decision: Vote.Decision
    comment: str
    values: _kernel_pb2.Json
    def __init__(self, run: _Optional[str] = ..., step: _Optional[str] = ..., decision: _Optional[_Union[Vote.Decision, str]] = ..., comment: _Optional[str] = ..., values: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("key", "decision", "comment", "at", "on_behalf_of")
    class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DECISION_UNSPECIFIED: _ClassVar[Vote.Decision]
        APPROVE: _ClassVar[Vote.Decision]
        REJECT: _ClassVar[Vote.Decision]
    DECISION_UNSPECIFIED: Vote.Decision
    APPROVE: Vote.Decision
    REJECT: Vote.Decision
    KEY_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ON_BEHALF_OF_FIELD_NUMBER: _ClassVar[int]
    key: str
    decision: Vote.Decision
    comment: str
    at: _timestamp_pb2.Timestamp
    on_behalf_of: str
    def __init__(self, key: _Optional[str] = ..., decision: _Optional[_Union[Vote.Decision, str]] = ..., comment: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., on_behalf_of: _Optional[str] = ...) -> None: ...

class Approval(_message.Message):
    __slots__ = ("run", "step", "template", "title", "details", "quorum", "state", "deadline", "votes", "started_by", "approvers", "escalations", "form", "values")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Approval.State]
        PENDING: _ClassVar[Approval.State]
        APPROVED: _ClassVar[Approval.State]
        REJECTED: _ClassVar[Approval.State]
        EXPIRED: _ClassVar[Approval.State]
    STATE_UNSPECIFIED: Approval.State
    PENDING: Approval.State
    APPROVED: Approval.State
    REJECTED: Approval.State
    EXPIRED: Approval.State
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    APPROVERS_FIELD_NUMBER: _ClassVar[int]
    ESCALATIONS_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    run: str
    step: str
    template: str
    title: str
    details: _kernel_pb2.Json
    quorum: int
    state: Approval.State
    deadline: _timestamp_pb2.Timestamp
    votes: _containers.RepeatedCompositeFieldContainer[Vote]
    started_by: str
    approvers: _containers.RepeatedScalarFieldContainer[str]
    escalations: int
    form: _kernel_pb2.Json
    values: _kernel_pb2.Json
    def __init__(self, run: _Optional[str] = ..., step: _Optional[str] = ..., template: _Optional[str] = ..., title: _Optional[str] = ..., details: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., quorum: _Optional[int] = ..., state: _Optional[_Union[Approval.State, str]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., votes: _Optional[_Iterable[_Union[Vote, _Mapping]]] = ..., started_by: _Optional[str] = ..., approvers: _Optional[_Iterable[str]] = ..., escalations: _Optional[int] = ..., form: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ..., values: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...

class CreateDelegationRequest(_message.Message):
    __slots__ = ("run", "step", "delegate", "delegate_desk", "ttl_seconds", "reason")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DELEGATE_FIELD_NUMBER: _ClassVar[int]
    DELEGATE_DESK_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run: str
    step: str
    delegate: str
    delegate_desk: str
    ttl_seconds: int
    reason: str
    def __init__(self, run: _Optional[str] = ..., step: _Optional[str] = ..., delegate: _Optional[str] = ..., delegate_desk: _Optional[str] = ..., ttl_seconds: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Delegation(_message.Message):
    __slots__ = ("id", "run", "step", "approver", "delegated_by", "delegate", "delegate_desk", "reason", "expires_at", "created_at", "ended_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    APPROVER_FIELD_NUMBER: _ClassVar[int]
    DELEGATED_BY_FIELD_NUMBER: _ClassVar[int]
    DELEGATE_FIELD_NUMBER: _ClassVar[int]
    DELEGATE_DESK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    run: str
    step: str
    approver: str
    delegated_by: str
    delegate: str
    delegate_desk: str
    reason: str
    expires_at: _timestamp_pb2.Timestamp
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., run: _Optional[str] = ..., step: _Optional[str] = ..., approver: _Optional[str] = ..., delegated_by: _Optional[str] = ..., delegate: _Optional[str] = ..., delegate_desk: _Optional[str] = ..., reason: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListDelegationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDelegationsResponse(_message.Message):
    __slots__ = ("delegations",)
    DELEGATIONS_FIELD_NUMBER: _ClassVar[int]
    delegations: _containers.RepeatedCompositeFieldContainer[Delegation]
    def __init__(self, delegations: _Optional[_Iterable[_Union[Delegation, _Mapping]]] = ...) -> None: ...

class EndDelegationRequest(_message.Message):
    __slots__ = ("delegation",)
    DELEGATION_FIELD_NUMBER: _ClassVar[int]
    delegation: str
    def __init__(self, delegation: _Optional[str] = ...) -> None: ...

class CreateApprovalLinkRequest(_message.Message):
    __slots__ = ("run", "step", "approver", "ttl_seconds")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    APPROVER_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    run: str
    step: str
    approver: str
    ttl_seconds: int
    def __init__(self, run: _Optional[str] = ..., step: _Optional[str] = ..., approver: _Optional[str] = ..., ttl_seconds: _Optional[int] = ...) -> None: ...

class ApprovalLink(_message.Message):
    __slots__ = ("path", "approver", "expires_at")
    PATH_FIELD_NUMBER: _ClassVar[int]
    APPROVER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    path: str
    approver: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, path: _Optional[str] = ..., approver: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class OpenApprovalLinkRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class UseApprovalLinkRequest(_message.Message):
    __slots__ = ("token", "decision", "comment", "values")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    token: str
    decision: Vote.Decision
    comment: str
    values: _kernel_pb2.Json
    def __init__(self, token: _Optional[str] = ..., decision: _Optional[_Union[Vote.Decision, str]] = ..., comment: _Optional[str] = ..., values: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...
