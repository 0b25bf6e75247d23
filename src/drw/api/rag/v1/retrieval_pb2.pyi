from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from drw.api.rag.v1 import vector_store_pb2 as _vector_store_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("collection", "question", "limit", "attributes", "filter", "score_threshold", "auto_filters")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    AUTO_FILTERS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    question: str
    limit: int
    attributes: _containers.MessageMap[str, _struct_pb2.Value]
    filter: _struct_pb2.Struct
    score_threshold: float
    auto_filters: bool
    def __init__(self, collection: _Optional[str] = ..., question: _Optional[str] = ..., limit: _Optional[int] = ..., attributes: _Optional[_Mapping[str, _struct_pb2.Value]] = ..., filter: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., score_threshold: _Optional[float] = ..., auto_filters: _Optional[bool] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("passages", "applied_filters")
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FILTERS_FIELD_NUMBER: _ClassVar[int]
    passages: _containers.RepeatedCompositeFieldContainer[_vector_store_pb2.Passage]
    applied_filters: _containers.RepeatedCompositeFieldContainer[_vector_store_pb2.AppliedFilter]
    def __init__(self, passages: _Optional[_Iterable[_Union[_vector_store_pb2.Passage, _Mapping]]] = ..., applied_filters: _Optional[_Iterable[_Union[_vector_store_pb2.AppliedFilter, _Mapping]]] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("collection", "question", "model", "limit", "filter", "score_threshold", "user", "session", "auto_filters")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AUTO_FILTERS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    question: str
    model: str
    limit: int
    filter: _struct_pb2.Struct
    score_threshold: float
    user: str
    session: str
    auto_filters: bool
    def __init__(self, collection: _Optional[str] = ..., question: _Optional[str] = ..., model: _Optional[str] = ..., limit: _Optional[int] = ..., filter: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., score_threshold: _Optional[float] = ..., user: _Optional[str] = ..., session: _Optional[str] = ..., auto_filters: _Optional[bool] = ...) -> None: ...

class Citation(_message.Message):
    __slots__ = ("number", "passage", "quote")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    number: int
    passage: _vector_store_pb2.Passage
    quote: str
    def __init__(self, number: _Optional[int] = ..., passage: _Optional[_Union[_vector_store_pb2.Passage, _Mapping]] = ..., quote: _Optional[str] = ...) -> None: ...

class UnsupportedFigure(_message.Message):
    __slots__ = ("figure", "start", "end")
    FIGURE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    figure: str
    start: int
    end: int
    def __init__(self, figure: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("text", "citations", "unsupported_figures", "supported", "model", "incomplete", "id", "experiment")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    UNSUPPORTED_FIGURES_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    text: str
    citations: _containers.RepeatedCompositeFieldContainer[Citation]
    unsupported_figures: _containers.RepeatedCompositeFieldContainer[UnsupportedFigure]
    supported: bool
    model: str
    incomplete: str
    id: str
    experiment: str
    def __init__(self, text: _Optional[str] = ..., citations: _Optional[_Iterable[_Union[Citation, _Mapping]]] = ..., unsupported_figures: _Optional[_Iterable[_Union[UnsupportedFigure, _Mapping]]] = ..., supported: _Optional[bool] = ..., model: _Optional[str] = ..., incomplete: _Optional[str] = ..., id: _Optional[str] = ..., experiment: _Optional[str] = ...) -> None: ...

class AskEvent(_message.Message):
    __slots__ = ("sources", "text", "answer")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    sources: SearchResponse
    text: str
    answer: Answer
    def __init__(self, sources: _Optional[_Union[SearchResponse, _Mapping]] = ..., text: _Optional[str] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ...) -> None: ...
