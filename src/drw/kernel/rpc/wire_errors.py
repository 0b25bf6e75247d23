"""Errors between processes: the class name, message and metadata of an error in the trailers of a gRPC call."""

from __future__ import annotations

import grpc

from drw.api.kernel.v1.kernel_pb2 import ErrorInfo
from drw.kernel.errors import DrwError, InternalError

MESSAGE_BYTES, METADATA_BYTES, METADATA_VALUES = 1_200, 300, 8
"""How much of an error travels: gRPC drops answers whose trailers have over 8 KiB, in which it triples some bytes."""


def to_wire(error: DrwError, service: str) -> tuple[str, bytes]:
    """Return the message and the serialised details of an error."""
    metadata = {k: _cut(v, METADATA_BYTES) for k, v in list(error.metadata.items())[:METADATA_VALUES]}
    info = ErrorInfo(reason=error.reason, service=service, metadata=metadata)
    return _cut(error.message, MESSAGE_BYTES), info.SerializeToString()


def from_wire(code: grpc.StatusCode, message: str, info: bytes | None) -> DrwError:
    """Return the error that the service raised, or the nearest class by its code."""
    by_code = next((c for c in _classes(DrwError) if c.code == code.name and c.code != DrwError.code), InternalError)
    if info is None:
        return _make(by_code, message, {}, by_code.__name__)
    detail = ErrorInfo.FromString(info)
    cls = next((c for c in _classes(DrwError) if c.__name__ == detail.reason), by_code)
    return _make(cls, message, dict(detail.metadata), detail.reason)


def _cut(text: str, max_bytes: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= max_bytes else data[:max_bytes].decode(errors="ignore") + "..."


def _make(cls: type[DrwError], message: str, metadata: dict[str, str], reason: str) -> DrwError:
    error = cls.__new__(cls)
    DrwError.__init__(error, message, **metadata)
    error.reason = reason  # kept where this process does not know the class
    return error


def _classes(cls: type[DrwError]) -> list[type[DrwError]]:
    return [s for c in cls.__subclasses__() for s in (c, *_classes(c))]
