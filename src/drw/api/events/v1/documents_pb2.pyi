from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DocumentIndexed(_message.Message):
    __slots__ = ("file", "collection", "content_hash", "pages", "chunks", "unchanged")
    FILE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    file: str
    collection: str
    content_hash: str
    pages: int
    chunks: int
    unchanged: bool
    def __init__(self, file: _Optional[str] = ..., collection: _Optional[str] = ..., content_hash: _Optional[str] = ..., pages: _Optional[int] = ..., chunks: _Optional[int] = ..., unchanged: _Optional[bool] = ...) -> None: ...
