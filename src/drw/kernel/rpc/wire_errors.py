"""Errors between processes: class name, message and metadata in the trailers of a gRPC call."""

from __future__ import annotations

import grpc

from drw.api.kernel.v1.kernel_pb2 import ErrorInfo
from drw.kernel.errors import DrwError, InternalError

MESSAGE_BYTES, METADATA_BYTES, METADATA_VALUES = 1_200, 300, 8
"""Limits of a serialised error: gRPC drops responses with trailers over 8 KiB, and encodes some bytes as three."""


def to_wire(error: DrwError, service: str) -> tuple[str, bytes]:
    """Serialise an error: its message, and its class and metadata."""
    metadata = {k: _truncated(v, METADATA_BYTES) for k, v in list(error.metadata.items())[:METADATA_VALUES]}
    info = ErrorInfo(reason=error.reason, service=service, metadata=metadata)
    return _truncated(error.message, MESSAGE_BYTES), info.SerializeToString()


def from_wire(code: grpc.StatusCode, message: str, info: bytes | None) -> DrwError:
    """Restore the error that a service raised; if its class is unknown here, the class with the same code."""
    by_code = next((c for c in _subclasses(DrwError) if c.code == code.name and c.code != DrwError.code), InternalError)
    if info is None:
        return _restored(by_code, message, {}, by_code.__name__)
    detail = ErrorInfo.FromString(info)
    cls = next((c for c in _subclasses(DrwError) if c.__name__ == detail.reason), by_code)
    return _restored(cls, message, dict(detail.metadata), detail.reason)


def _truncated(text: str, max_bytes: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= max_bytes else data[:max_bytes].decode(errors="ignore") + "..."


def _restored(cls: type[DrwError], message: str, metadata: dict[str, str], reason: str) -> DrwError:
    error = cls.__new__(cls)
    DrwError.__init__(error, message, **metadata)
    error.reason = reason  # the name of the class, even if this process does not have it
    return error


def _subclasses(cls: type[DrwError]) -> list[type[DrwError]]:
    return [s for c in cls.__subclasses__() for s in (c, *_subclasses(c))]
