from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class KillActivated(_message.Message):
    __slots__ = ("kill", "subject", "name", "reason")
    KILL_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kill: str
    subject: str
    name: str
    reason: str
    def __init__(self, kill: _Optional[str] = ..., subject: _Optional[str] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class KillLifted(_message.Message):
    __slots__ = ("kill", "subject", "name", "reason")
    KILL_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kill: str
    subject: str
    name: str
    reason: str
    def __init__(self, kill: _Optional[str] = ..., subject: _Optional[str] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class BudgetNearlySpent(_message.Message):
    __slots__ = ("subject", "name", "period", "period_start", "unit", "spent", "budget")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    PERIOD_START_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    subject: str
    name: str
    period: str
    period_start: str
    unit: str
    spent: str
    budget: str
    def __init__(self, subject: _Optional[str] = ..., name: _Optional[str] = ..., period: _Optional[str] = ..., period_start: _Optional[str] = ..., unit: _Optional[str] = ..., spent: _Optional[str] = ..., budget: _Optional[str] = ...) -> None: ...
