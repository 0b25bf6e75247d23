"""Request bodies as pydantic models: parses JSON, and turns the first validation error into one readable sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.json_bodies import check_keys

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
"""By pydantic's type of error; each follows the path of the field."""


class StrictModel(BaseModel):
    """Exact types, no conversion, no unknown fields. A null field counts as absent, as SDKs send it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {name: inner for name, inner in value.items() if inner is not None} if isinstance(value, dict) else value


M = TypeVar("M", bound=StrictModel)


def read_model(model: type[M], raw: bytes) -> M:
    """Return the body of a request; an empty body stands for an empty object.

    A `ValueError` of a validator becomes the error's message, after the path of the field: "attributes has ...".

    Raises:
        InvalidRequest: the body is not JSON, has a key twice or an unknown field, or a value is wrong.
    """
    raw = raw or b"{}"
    try:
        value = model.model_validate_json(raw)
    except ValidationError as error:
        raise _readable(model, error) from None
    check_keys(raw)
    return value


def _readable(model: type[StrictModel], error: ValidationError) -> InvalidRequest:
    fault = error.errors(include_url=False, include_input=False)[0]
    kind, path = fault["type"], fault["loc"]
    param = field_path(path)
    if kind == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {fault['msg']}")
    if not path and kind != "value_error":
        return InvalidRequest("the body must be a JSON object")
    if kind == "extra_forbidden":
        known = f"; there are: {', '.join(sorted(model.model_fields))}" if len(path) == 1 else ""
        return InvalidRequest(f"{param[:MAX_QUOTED]!r} is not a field{known}", param=param[:MAX_QUOTED])
    context: Mapping[str, Any] = fault.get("ctx", {})
    if kind in MESSAGES:
        return InvalidRequest(f"{param} {MESSAGES[kind].format(**context)}", param=param)
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return InvalidRequest(f"{param} {message}".strip(), param=param)
    return InvalidRequest(f"{param}: {message}", param=param)


def field_path(path: tuple[int | str, ...]) -> str:
    """Return the path of a field as OpenAI writes it, as in `files[0].file_id`."""
    text = ""
    for name in path:
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text
