from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunEnded(_message.Message):
    __slots__ = ("run", "template", "template_version", "state", "error")
    RUN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    run: str
    template: str
    template_version: str
    state: str
    error: str
    def __init__(self, run: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class DeadLetterCreated(_message.Message):
    __slots__ = ("dead_letter", "run", "step", "template", "error_class", "fingerprint", "error")
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    dead_letter: str
    run: str
    step: str
    template: str
    error_class: str
    fingerprint: str
    error: str
    def __init__(self, dead_letter: _Optional[str] = ..., run: _Optional[str] = ..., step: _Optional[str] = ..., template: _Optional[str] = ..., error_class: _Optional[str] = ..., fingerprint: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class WorkflowPublished(_message.Message):
    __slots__ = ("name", "run", "step", "template", "template_version", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    run: str
    step: str
    template: str
    template_version: str
    data: _kernel_pb2.Json
    def __init__(self, name: _Optional[str] = ..., run: _Optional[str] = ..., step: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., data: _Optional[_Union[_kernel_pb2.Json, _Mapping]] = ...) -> None: ...
