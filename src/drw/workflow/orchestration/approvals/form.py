"""Forms: the values of an approval, validated by a JSON Schema.

Patterns run on a linear-time engine, and a schema cannot load another one: neither the author of a form nor an approver
can make a validation slow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from drw.api.kernel.v1.kernel_pb2 import Json
from drw.kernel.errors import InvalidRequest, TooLarge
from drw.kernel.rpc.json_messages import json_value

MAX_BYTES = 16 * 1024
"""Maximum size of a form, and of its values."""


def check_schema(schema: dict[str, Any]) -> None:
    """Check the form of an approval.

    Raises:
        TooLarge: it exceeds `MAX_BYTES`.
        InvalidRequest: it is not a JSON Schema of an object, or refers to another schema.
    """
    text = orjson.dumps(schema).decode()
    if len(text) > MAX_BYTES:
        raise TooLarge(f"the form has {len(text)} bytes; at most {MAX_BYTES}")
    if schema.get("type") != "object":
        raise InvalidRequest("the form must be a JSON Schema with 'type: object'")
    try:
        jsonschema_rs.meta.validate(schema)
        _validator(text)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"the form is not a JSON Schema: {str(error).splitlines()[0][:200]}") from error


def values_of(message: Json | None) -> Any:
    """Return the values of a request, or None.

    Raises:
        TooLarge: they exceed `MAX_BYTES`.
        InvalidRequest: they are not JSON.
    """
    if message is None:
        return None
    if len(message.text.encode()) > MAX_BYTES:
        raise TooLarge(f"values has {len(message.text)} characters; at most {MAX_BYTES} bytes", param="values")
    return json_value(message)


def check_values(schema: dict[str, Any], values: Any) -> None:
    """Check the values of an approval.

    Raises:
        InvalidRequest: they do not match the form; the message has the path and the rule, but no value.
    """
    try:
        error = next(_validator(orjson.dumps(schema).decode()).iter_errors(values), None)
    except ValueError as invalid:  # nested too deeply
        raise InvalidRequest("values cannot be validated: they are nested too deeply", param="values") from invalid
    if error is not None:
        place = ".".join(["values", *map(str, error.instance_path)])
        rule = "/".join(map(str, error.schema_path))
        raise InvalidRequest(f"the values do not match the form: {place} breaks the rule {rule!r}", param="values")


def canonical(values: Any) -> bytes:
    """Return values in a form that is equal for equal JSON. `1`, `1.0` and `true` are different."""
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)


@lru_cache(maxsize=200)
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for(
        orjson.loads(schema), pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse
    )


def _refuse(uri: str) -> Any:
    raise ValueError(f"a $ref must be to a part of the same schema, not to {uri[:80]!r}")
