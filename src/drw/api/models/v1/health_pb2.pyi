from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetReportRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Report(_message.Message):
    __slots__ = ("healthy", "services")
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    services: _containers.RepeatedCompositeFieldContainer[_kernel_pb2.ServiceStatus]
    def __init__(self, healthy: _Optional[bool] = ..., services: _Optional[_Iterable[_Union[_kernel_pb2.ServiceStatus, _Mapping]]] = ...) -> None: ...
