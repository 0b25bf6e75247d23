from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ModelPromoted(_message.Message):
    __slots__ = ("version", "alias", "previous_version", "promotion", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    alias: str
    previous_version: str
    promotion: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., alias: _Optional[str] = ..., previous_version: _Optional[str] = ..., promotion: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AliasMoved(_message.Message):
    __slots__ = ("alias", "targets", "previous_targets", "reason")
    class TargetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class PreviousTargetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TARGETS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    alias: str
    targets: _containers.ScalarMap[str, int]
    previous_targets: _containers.ScalarMap[str, int]
    reason: str
    def __init__(self, alias: _Optional[str] = ..., targets: _Optional[_Mapping[str, int]] = ..., previous_targets: _Optional[_Mapping[str, int]] = ..., reason: _Optional[str] = ...) -> None: ...
