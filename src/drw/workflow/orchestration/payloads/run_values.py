"""The inputs of a run, as the columns of its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from drw.kernel.storage.sql import Jsonb
from drw.workflow.orchestration.payloads.payload_store import MAX_INLINE_BYTES, Owner, PayloadStore


@dataclass(frozen=True, slots=True)
class StoredInputs:
    """The inputs that the row has, and the reference to all of them if there are more."""

    inline: str
    reference: Jsonb | None = None


def inline_inputs(values: Mapping[str, Any]) -> StoredInputs:
    """Return inputs of at most 64 KiB as columns."""
    return StoredInputs(orjson.dumps(values).decode())


async def store_inputs(payloads: PayloadStore, owner: Owner, run: str, values: Mapping[str, Any]) -> StoredInputs:
    """Store the inputs of a run that is about to start. The row has the small ones, to show and to search.

    Raises:
        TooLarge: the desk has too many bytes of payloads.
        Unavailable: the blob cannot be written.
    """
    inputs_json = orjson.dumps(values)
    await payloads.check(owner, run, len(inputs_json))
    stored = await payloads.store(owner, run, inputs_json)
    if stored.reference is None:
        return StoredInputs(inputs_json.decode())
    small, remaining = {}, MAX_INLINE_BYTES
    for name, size in sorted(((name, len(orjson.dumps(value))) for name, value in values.items()), key=lambda x: x[1]):
        if (remaining := remaining - size - len(name)) < 0:
            break
        small[name] = values[name]
    return StoredInputs(orjson.dumps(small).decode(), stored.reference)
