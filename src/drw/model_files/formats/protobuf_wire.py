"""Bounded walk over protobuf messages in a file, driven by their descriptors, without loading long values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from drw.model_files.errors import ModelRejected
from drw.model_files.formats.reader import Reader

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10
MESSAGE = 11
WIRE_TYPES = {1: FIXED64, 2: FIXED32, 6: FIXED64, 7: FIXED32, 15: FIXED32, 16: FIXED64} | {
    9: BYTES,
    11: BYTES,
    12: BYTES,
}
"""Wire type by field type of a descriptor; all others are varints."""


class FieldType(NamedTuple):
    """A field of a message; `message` is the descriptor of a submessage."""

    name: str
    wire_type: int
    repeated: bool
    message: Any


class Field(NamedTuple):
    """A field of a message in a file: a number in `value`, or the bytes from `start` to `end`."""

    type: FieldType
    value: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """Name in the descriptor."""
        return self.type.name


class Walker:
    """Iterates over the fields of messages; counts them against a limit for the whole file."""

    def __init__(self, reader: Reader, max_fields: int) -> None:
        self._reader = reader
        self._left = max_fields
        self._max_fields = max_fields

    def fields(self, message: Any, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of a message. Unknown fields, groups and repeated singular fields raise `ModelRejected`."""
        types = field_types(message)
        seen: set[int] = set()
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise ModelRejected(f"{self._reader.path} has more than {self._max_fields:,} protobuf fields")
            tag, start = self.varint(start, end)
            number, wire_type = tag >> 3, tag & 7
            field_type = types.get(number)
            if field_type is None:
                raise self._malformed(f"the unknown field {number} of {message.name}", start)
            if not field_type.repeated and number in seen:  # protobuf would merge them, unseen by these checks
                raise self._malformed(f"the field {field_type.name!r} of {message.name} twice", start)
            seen.add(number)
            packed = wire_type == BYTES and field_type.repeated
            if wire_type != field_type.wire_type and not packed:
                raise self._malformed(f"the wire type {wire_type} for {field_type.name!r}", start)
            field = self._field(field_type, wire_type, start, end)
            start = field.end
            yield field

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """Return an unsigned number of up to 64 bits and the offset behind it."""
        data = self._reader.read(start, min(MAX_VARINT, end - start))
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if value >> 64:
                    break
                return value, start + index + 1
        raise self._malformed("an invalid number", start)

    def numbers(self, field: Field) -> Iterator[int]:
        """Yield the signed 64-bit numbers of a varint field, packed or not."""
        if field.value >= 0:
            yield signed(field.value)
            return
        at = field.start
        while at < field.end:
            self._left -= 1
            if self._left < 0:
                raise ModelRejected(f"{self._reader.path} has more than {self._max_fields:,} protobuf fields")
            value, at = self.varint(at, field.end)
            yield signed(value)

    def text(self, field: Field, maximum: int = 512) -> str:
        """Return a text of bounded length."""
        if field.end - field.start > maximum:
            length = field.end - field.start
            raise ModelRejected(
                f"{self._reader.path} has {length:,} bytes of {field.name!r}; the maximum is {maximum:,}"
            )
        try:
            return self._reader.read(field.start, field.end - field.start).decode()
        except UnicodeDecodeError as error:
            raise self._malformed(f"{field.name!r} that is not UTF-8", field.start) from error

    def _field(self, field_type: FieldType, wire_type: int, start: int, end: int) -> Field:
        match wire_type:
            case 0:
                value, stop = self.varint(start, end)
                return Field(field_type, value, start, stop)
            case 2:
                length, start = self.varint(start, end)
                stop = start + length
            case 1:
                stop = start + 8
            case _:
                stop = start + 4
        if stop > end:
            raise self._malformed(f"{field_type.name!r} beyond the end of its message", start)
        return Field(field_type, -1, start, stop)

    def _malformed(self, what: str, at: int) -> ModelRejected:
        return ModelRejected(f"{self._reader.path} is not a valid ONNX file: {what} at byte {at:,}")


def signed(value: int) -> int:
    """Return a varint as a signed 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


@cache
def field_types(message: Any) -> dict[int, FieldType]:
    """Return the fields of a descriptor by number."""
    return {
        field.number: FieldType(
            field.name,
            WIRE_TYPES.get(field.type, VARINT),
            field.is_repeated,
            field.message_type if field.type == MESSAGE else None,
        )
        for field in message.fields
    }
