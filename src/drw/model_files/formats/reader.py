"""Bounded random access to a file, for parsers of headers."""

from __future__ import annotations

import os
import struct

from drw.model_files.errors import ModelRejected

WINDOW = 1 << 18


class Reader:
    """Reads parts of an open file; a read outside the file or above `max_read` bytes raises `ModelRejected`."""

    def __init__(self, descriptor: int, path: str, max_read: int = 1 << 20) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._max_read = max_read
        self._start = 0
        self._window = b""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at an offset."""
        begin = offset - self._start
        if begin >= 0 and begin + length <= len(self._window):
            return self._window[begin : begin + length]
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ModelRejected(f"{self.path} ends at byte {self.size:,}, inside its header: the file is truncated")
        if length > self._max_read:
            raise ModelRejected(f"{self.path} has a value of {length:,} bytes; the maximum is {self._max_read:,}")
        self._window = os.pread(self._descriptor, max(length, WINDOW), offset)
        self._start = offset
        if len(self._window) < length:
            raise ModelRejected(f"{self.path} became shorter during the check")
        return self._window[:length]

    def head(self, length: int) -> bytes:
        """Return up to `length` bytes from the beginning."""
        return self.read(0, min(length, self.size))

    def tail(self, length: int) -> bytes:
        """Return up to `length` bytes from the end."""
        length = min(length, self.size)
        return self.read(self.size - length, length)


class Cursor:
    """Sequential little-endian values from a `Reader`, up to a limit of bytes."""

    def __init__(self, reader: Reader, limit: int) -> None:
        self.at = 0
        self._reader = reader
        self._limit = limit

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        data = self._reader.read(self.at, length)
        self.skip(length)
        return data

    def skip(self, length: int) -> None:
        """Pass over bytes without reading them."""
        self.at += length
        if self.at > self._reader.size:
            raise ModelRejected(
                f"{self._reader.path} ends at byte {self._reader.size:,}, inside its header: the file is truncated"
            )
        if self.at > self._limit:
            raise ModelRejected(f"the header of {self._reader.path} exceeds {self._limit:,} bytes")

    def u32(self) -> int:
        """Return the next unsigned 32-bit integer."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """Return the next unsigned 64-bit integer."""
        return int.from_bytes(self.take(8), "little")

    def unpack(self, code: str) -> int | float:
        """Return the next value of a `struct` format code."""
        value: int | float
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return value
