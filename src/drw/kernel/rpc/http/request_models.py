"""Request bodies as pydantic models: parses JSON, and converts the first validation error to one readable sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.http.json_bodies import check_keys

MAX_QUOTED = 64

MESSAGES: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "too_long": "has {actual_length} items; at most {max_length}",
    "too_short": "has {actual_length} items; at least {min_length}",
}
"""Messages by the type of pydantic's error. Each is appended to the path of the field."""


class StrictModel(BaseModel):
    """Model without type conversion or unknown fields. A null field counts as absent, because SDKs send nulls."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else value


M = TypeVar("M", bound=StrictModel)


def read_model(model: type[M], raw: bytes) -> M:
    """Parse the body of a request; an empty body counts as an empty object.

    The message of a validator's `ValueError` is appended to the path of the field: "attributes has ...".

    Raises:
        InvalidRequest: the body is not JSON, has a duplicate key or an unknown field, or a value is wrong.
    """
    raw = raw or b"{}"
    try:
        value = model.model_validate_json(raw)
    except ValidationError as error:
        raise _readable_error(model, error) from None
    check_keys(raw)
    return value


def _readable_error(model: type[StrictModel], error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    kind, path = first["type"], first["loc"]
    param = field_path(path)
    if kind == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {first['msg']}")
    if not path and kind != "value_error":
        return InvalidRequest("the body must be a JSON object")
    if kind == "extra_forbidden":
        alternatives = f"; there are: {', '.join(sorted(model.model_fields))}" if len(path) == 1 else ""
        return InvalidRequest(f"{param[:MAX_QUOTED]!r} is not a field{alternatives}", param=param[:MAX_QUOTED])
    context: Mapping[str, Any] = first.get("ctx", {})
    if kind in MESSAGES:
        return InvalidRequest(f"{param} {MESSAGES[kind].format(**context)}", param=param)
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return InvalidRequest(f"{param} {message}".strip(), param=param)
    return InvalidRequest(f"{param}: {message}", param=param)


def field_path(path: tuple[int | str, ...]) -> str:
    """Return the path of a field in OpenAI's notation, as in `files[0].file_id`."""
    text = ""
    for name in path:
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text
