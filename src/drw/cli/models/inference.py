"""`drw infer`, `drw models load|unload|loaded`: call predictive models, load and unload them."""

from __future__ import annotations

import json
from typing import Annotated, Any, cast
from urllib.parse import quote

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

Model = Annotated[str, typer.Argument(help="Model or alias.", autocompletion=completion.models)]


def infer(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="Input as NAME=JSON, for example x=[[1,2]]; repeatable.", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Call a predictive model and print its outputs. Shapes follow from the nesting of the lists."""
    api = Api.of(data_dir)
    path = f"/v2/models/{quote(model)}"
    datatypes = {tensor["name"]: tensor["datatype"] for tensor in api.get(path)["inputs"]}
    tensors = [_tensor(text, datatypes) for text in inputs or []]
    response = api.post(f"{path}/infer", {"inputs": tensors})
    if as_json:
        write_json(response)
        return
    for output in response["outputs"]:
        shape = "x".join(map(str, output["shape"])) or "scalar"
        write(
            f"{output['name']} ({output['datatype']} {shape}): {json.dumps(_nested(output['data'], output['shape']))}"
        )


def load(model: Model, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Load a model into memory and warm it up. Without this, its first request does."""
    _change("load", model, data_dir, as_json, "is loaded")


def unload(model: Model, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Unload a model after its requests in progress. Its next request loads it again."""
    _change("unload", model, data_dir, as_json, "is unloaded")


def loaded(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the predictive models with their version and state."""
    entries = cast(list[dict[str, Any]], Api.of(data_dir).post("/v2/repository/index"))
    if as_json:
        write_json(entries)
        return
    rows = [(entry["name"], entry["version"], entry["state"].lower(), entry["reason"]) for entry in entries]
    write_table(("MODEL", "VERSION", "STATE", ""), rows, "no predictive models")


def _change(action: str, model: str, data_dir: Any, as_json: bool, done: str) -> None:
    response = Api.of(data_dir).post(f"/v2/repository/models/{quote(model)}/{action}")
    if as_json:
        write_json(response)
    else:
        write(f"{model} {done}")


def _tensor(text: str, datatypes: dict[str, str]) -> dict[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidRequest(f"{text!r} is not an input: use for example x=[[1,2]]")
    if name not in datatypes:
        raise InvalidRequest(f"the model has no input {name!r}; there are: {', '.join(datatypes)}")
    try:
        data = json.loads(value)
    except ValueError as error:
        raise InvalidRequest(f"the value of {name!r} is not JSON: {error}") from None
    shape = _shape(data)
    return {"name": name, "datatype": datatypes[name], "shape": shape, "data": data if shape else [data]}


def _shape(data: Any) -> list[int]:
    return [len(data), *(_shape(data[0]) if data else [])] if isinstance(data, list) else []


def _nested(data: list[Any], shape: list[int]) -> Any:
    """Return the flat elements of an output as nested lists."""
    if not shape:
        return data[0]
    if len(shape) == 1:
        return data
    size = len(data) // shape[0] if shape[0] else 0
    return [_nested(data[start : start + size], shape[1:]) for start in range(0, len(data), size)] if size else []
