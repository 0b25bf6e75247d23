"""Copies the times of a row to the timestamp fields of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message


def set_times(message: Message, row: Mapping[str, Any], *names: str) -> None:
    """Set the timestamp fields of these names from the columns of the same names; a null stays unset."""
    for name in names:
        if row[name] is not None:
            getattr(message, name).FromDatetime(row[name])
