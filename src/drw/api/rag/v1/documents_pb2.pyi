import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class File(_message.Message):
    __slots__ = ("id", "name", "bytes", "content_hash", "purpose", "created_at", "walls")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    bytes: int
    content_hash: str
    purpose: str
    created_at: _timestamp_pb2.Timestamp
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., bytes: _Optional[int] = ..., content_hash: _Optional[str] = ..., purpose: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class PutFileRequest(_message.Message):
    __slots__ = ("name", "content", "purpose", "walls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    content: bytes
    purpose: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., content: _Optional[bytes] = ..., purpose: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class GetFileRequest(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: str
    def __init__(self, file: _Optional[str] = ...) -> None: ...

class ReadTextRequest(_message.Message):
    __slots__ = ("file", "max_characters")
    FILE_FIELD_NUMBER: _ClassVar[int]
    MAX_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    file: str
    max_characters: int
    def __init__(self, file: _Optional[str] = ..., max_characters: _Optional[int] = ...) -> None: ...

class ReadTextResponse(_message.Message):
    __slots__ = ("pages", "truncated")
    PAGES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    pages: _containers.RepeatedScalarFieldContainer[str]
    truncated: bool
    def __init__(self, pages: _Optional[_Iterable[str]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class ReadContentRequest(_message.Message):
    __slots__ = ("file", "offset", "length")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    file: str
    offset: int
    length: int
    def __init__(self, file: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class ReadContentResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class WriteUploadRequest(_message.Message):
    __slots__ = ("upload", "offset", "content")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    upload: str
    offset: int
    content: bytes
    def __init__(self, upload: _Optional[str] = ..., offset: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class WriteUploadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishUploadRequest(_message.Message):
    __slots__ = ("upload", "name", "purpose", "content_hash", "walls")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    upload: str
    name: str
    purpose: str
    content_hash: str
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, upload: _Optional[str] = ..., name: _Optional[str] = ..., purpose: _Optional[str] = ..., content_hash: _Optional[str] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class IndexFileRequest(_message.Message):
    __slots__ = ("file", "collection", "attributes", "walls")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    FILE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    file: str
    collection: str
    attributes: _containers.MessageMap[str, _struct_pb2.Value]
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, file: _Optional[str] = ..., collection: _Optional[str] = ..., attributes: _Optional[_Mapping[str, _struct_pb2.Value]] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class Indexing(_message.Message):
    __slots__ = ("file", "collection", "state", "error", "pages", "chunks", "unchanged")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Indexing.State]
        IN_PROGRESS: _ClassVar[Indexing.State]
        COMPLETED: _ClassVar[Indexing.State]
        FAILED: _ClassVar[Indexing.State]
        CANCELLED: _ClassVar[Indexing.State]
    STATE_UNSPECIFIED: Indexing.State
    IN_PROGRESS: Indexing.State
    COMPLETED: Indexing.State
    FAILED: Indexing.State
    CANCELLED: Indexing.State
    FILE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    file: str
    collection: str
    state: Indexing.State
    error: str
    pages: int
    chunks: int
    unchanged: bool
    def __init__(self, file: _Optional[str] = ..., collection: _Optional[str] = ..., state: _Optional[_Union[Indexing.State, str]] = ..., error: _Optional[str] = ..., pages: _Optional[int] = ..., chunks: _Optional[int] = ..., unchanged: _Optional[bool] = ...) -> None: ...

class WatchIndexingRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class IndexingProgress(_message.Message):
    __slots__ = ("in_progress", "completed", "failed", "pages", "chunks")
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    in_progress: int
    completed: int
    failed: int
    pages: int
    chunks: int
    def __init__(self, in_progress: _Optional[int] = ..., completed: _Optional[int] = ..., failed: _Optional[int] = ..., pages: _Optional[int] = ..., chunks: _Optional[int] = ...) -> None: ...
