"""Cases over REST."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

from conformance.open_inference import values
from conformance.open_inference.case import Failed, Model, Server, Skipped, case, ok, rejected, require

UNKNOWN = "no-such-model"
BINARY = "binary_tensor_data"
"""The extension of binary data in the metadata of a server."""


@case("core", "GET v2/health/live returns 200", per_model=False)
def server_live(server: Server, model: Model) -> None:
    require(server.http.get("/v2/health/live").status_code == 200, "not live")


@case("core", "GET v2/health/ready returns 200", per_model=False)
def server_ready(server: Server, model: Model) -> None:
    require(server.http.get("/v2/health/ready").status_code == 200, "not ready")


@case("core", "GET v2 returns name, version and a list of extensions", per_model=False)
def server_metadata(server: Server, model: Model) -> None:
    body = ok(server.http.get("/v2"))
    require(isinstance(body.get("name"), str) and isinstance(body.get("version"), str), f"{body}")
    require(all(isinstance(extension, str) for extension in body.get("extensions", [0])), f"{body}")


@case("core", "GET v2/models/NAME returns name, platform, inputs and outputs with name, datatype and shape")
def model_metadata(server: Server, model: Model) -> None:
    body = ok(server.http.get(f"/v2/models/{model.name}"))
    require(body.get("name") == model.name and isinstance(body.get("platform"), str), f"{body}")
    for tensor in [*body["inputs"], *body["outputs"]]:
        require({"name", "datatype", "shape"} <= tensor.keys(), f"{tensor}")
        require(all(isinstance(size, int) and size >= -1 for size in tensor["shape"]), f"shape {tensor['shape']}")


@case("core", "GET v2/models/NAME/ready returns 200 for a loaded model")
def model_ready(server: Server, model: Model) -> None:
    require(server.http.get(f"/v2/models/{model.name}/ready").status_code == 200, "not ready")


@case("core", "an unknown model has an error status and an error message", per_model=False)
def unknown_model(server: Server, model: Model) -> None:
    rejected(server.http.get(f"/v2/models/{UNKNOWN}"))
    rejected(server.http.post(f"/v2/models/{UNKNOWN}/infer", json=model.rest_request()))
    require(server.http.get(f"/v2/models/{UNKNOWN}/ready").status_code != 200, "an unknown model is ready")


@case("core", "a version that the metadata lists can be named in the path")
def model_version(server: Server, model: Model) -> None:
    versions = ok(server.http.get(f"/v2/models/{model.name}")).get("versions") or []
    if not versions:
        raise Skipped("the server has no versions")
    body = ok(server.http.get(f"/v2/models/{model.name}/versions/{versions[0]}"))
    require(body.get("name") == model.name, f"{body}")
    if model.datatype not in values.NOT_JSON:
        path = f"/v2/models/{model.name}/versions/{versions[0]}/infer"
        require(ok(server.http.post(path, json=model.rest_request())).get("model_version") == versions[0], "version")
    rejected(server.http.get(f"/v2/models/{model.name}/versions/no-such-version"))


@case("core", "JSON values return unchanged, flat and nested in row-major order")
def json_values(server: Server, model: Model) -> None:
    _needs_json(model)
    nested = [model.samples[:2], model.samples[2:]]
    for data in (model.samples, nested):
        body = ok(server.infer(model, model.rest_request(data=data)))
        require(body.get("model_name") == model.name, f"model_name is {body.get('model_name')!r}")
        (output,) = body["outputs"]
        require(output["name"] == model.output and output["datatype"] == model.datatype, f"{output}")
        require(output["shape"] == model.shape, f"shape {output['shape']}")
        require(model.same(values.flat(output["data"])), f"{output['data']} instead of {model.samples}")


@case("core", "the id of a request returns with its response")
def request_id(server: Server, model: Model) -> None:
    _needs_json(model)
    body = ok(server.infer(model, model.rest_request() | {"id": "request-7"}))
    require(body.get("id") == "request-7", f"id is {body.get('id')!r}")


@case("core", "only the outputs that the request names return")
def named_output(server: Server, model: Model) -> None:
    _needs_json(model)
    body = ok(server.infer(model, model.rest_request() | {"outputs": [{"name": model.output}]}))
    require([output["name"] for output in body["outputs"]] == [model.output], f"{body['outputs']}")
    rejected(server.infer(model, model.rest_request() | {"outputs": [{"name": "no-such-output"}]}))


@case("core", "batches of one and of three rows keep their shape")
def batch_sizes(server: Server, model: Model) -> None:
    _needs_json(model)
    for rows in (1, 3):
        data = (model.samples * 2)[: 2 * rows]
        (output,) = ok(server.infer(model, model.rest_request(shape=[rows, 2], data=data)))["outputs"]
        require(output["shape"] == [rows, 2] and model.same(values.flat(output["data"]), data), f"{output}")


@case("core", "infer with GET is an error")
def wrong_method(server: Server, model: Model) -> None:
    status = server.http.get(f"/v2/models/{model.name}/infer").status_code
    require(400 <= status < 500, f"status {status}, not 4xx")  # a web framework can answer without the protocol's body


NOT_A_REQUEST = {
    "not JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "no inputs": b"{}",
    "inputs is no list": b'{"inputs": 7}',
    "an input is no object": b'{"inputs": [7]}',
    "deeply nested": b"[" * 100_000,
}


@case("core", "a body that is not a request is an error with a message, and the server survives")
def malformed_bodies(server: Server, model: Model) -> None:
    for name, body in NOT_A_REQUEST.items():
        response = server.http.post(
            f"/v2/models/{model.name}/infer", content=body, headers={"content-type": "application/json"}
        )
        _rejected(name, response)
    server_live(server, model)


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "a name that the model does not have": {"name": "no-such-input"},
    "no name": {"name": ""},
    "an unknown datatype": {"datatype": "FP33"},
    "too few elements": {"data": []},
    "a negative dimension": {"shape": [-2, -2]},
    "dimensions that overflow": {"shape": [2**62, 4]},
    "a dimension that is no integer": {"shape": [2.5, 2]},
    "a wrong rank": {"shape": [2, 2, 1]},
    "a wrong number of columns": {"shape": [4, 1]},
    "an object as data": {"data": {"0": 1}},
    "ragged data": {"data": [[1], [1, 2, 3]]},
    "null values": {"data": [None, None, None, None]},
}


@case("strict", "an input that contradicts itself or the model is an error")
def contradictions(server: Server, model: Model) -> None:
    _needs_json(model)
    for name, changes in CONTRADICTIONS.items():
        _rejected(name, server.infer(model, model.rest_request(**changes)))


@case("strict", "an input that is missing, or given twice, is an error")
def wrong_inputs(server: Server, model: Model) -> None:
    _needs_json(model)
    request = model.rest_request()
    _rejected("no inputs", server.infer(model, {"inputs": []}))
    _rejected("an input twice", server.infer(model, {"inputs": request["inputs"] * 2}))


@case("strict", "values outside of the data type are an error")
def out_of_range(server: Server, model: Model) -> None:
    if not model.datatype.startswith(("INT", "UINT")):
        raise Skipped("not an integer")
    for value in (2**64, -(2**63) - 1, 1.5, "1"):
        _rejected(f"{value!r}", server.infer(model, model.rest_request(data=[value] * 4)))


@case("strict", "NaN is not JSON: responses never have it, and requests with it are an error")
def not_a_number(server: Server, model: Model) -> None:
    if model.datatype not in ("FP32", "FP64"):
        raise Skipped("not a float")
    text = json.dumps(model.rest_request(data=[float("nan")] * 4)).encode()
    path, content_type = f"/v2/models/{model.name}/infer", {"content-type": "application/json"}
    _rejected("NaN in a request", server.http.post(path, content=text, headers=content_type))
    if BINARY not in server.extensions:
        return
    data = values.encode(model.datatype, [float("nan"), float("inf"), 0.0, 1.0])
    response = server.infer(model, model.rest_request(binary=True) | {"outputs": [{"name": model.output}]}, data)
    try:
        json.loads(response.content, parse_constant=_constant)
    except ValueError as error:
        raise Failed(f"the response is not JSON: {error}") from None


@case("binary", "binary inputs and outputs return unchanged", per_model=True)
def binary_values(server: Server, model: Model) -> None:
    _needs_binary(server)
    data = values.encode(model.datatype, model.samples)
    request = model.rest_request(binary=True) | {"parameters": {"binary_data_output": True}}
    response = server.infer(model, request, data)
    (output,) = ok(response)["outputs"]
    require(output["datatype"] == model.datatype and output["shape"] == model.shape, f"{output}")
    require("data" not in output, "the output has data and binary data")
    size = output.get("parameters", {}).get("binary_data_size")
    require(size == len(data), f"binary_data_size is {size}, not {len(data)}")
    length = int(response.headers["inference-header-content-length"])
    require(response.content[length:] == data, f"{response.content[length:]!r} instead of {data!r}")


@case("binary", "each output can be binary or JSON, whatever the inputs are")
def mixed_forms(server: Server, model: Model) -> None:
    _needs_binary(server)
    _needs_json(model)
    data = values.encode(model.datatype, model.samples)
    choice = [{"name": model.output, "parameters": {"binary_data": True}}]
    response = server.infer(model, model.rest_request() | {"outputs": choice})
    ok(response)
    length = int(response.headers["inference-header-content-length"])
    require(response.content[length:] == data, "JSON in, binary out")
    choice = [{"name": model.output, "parameters": {"binary_data": False}}]
    (output,) = ok(server.infer(model, model.rest_request(binary=True) | {"outputs": choice}, data))["outputs"]
    require(model.same(values.flat(output.get("data", []))), f"binary in, JSON out: {output}")


@case("binary", "compressed requests are read, and responses are compressed on request")
def compression(server: Server, model: Model) -> None:
    _needs_binary(server)
    data = values.encode(model.datatype, model.samples)
    request = model.rest_request(binary=True) | {"parameters": {"binary_data_output": True}}
    text = json.dumps(request).encode()
    for name, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        headers = {"Content-Encoding": name, "Accept-Encoding": name, "Inference-Header-Content-Length": str(len(text))}
        path = f"/v2/models/{model.name}/infer"
        response = server.http.post(path, content=compress(text + data), headers=headers)
        (output,) = ok(response)["outputs"]
        require(output["shape"] == model.shape, f"{name}: {output}")


WRONG_SIZES = {"too small": -1, "too large": 1, "negative": -1000}


@case("strict", "binary data of a wrong size is an error")
def wrong_binary_size(server: Server, model: Model) -> None:
    _needs_binary(server)
    data = values.encode(model.datatype, model.samples)
    for name, change in WRONG_SIZES.items():
        request = model.rest_request(binary=True, parameters={"binary_data_size": len(data) + change})
        _rejected(f"binary_data_size {name}", server.infer(model, request, data))
    request = model.rest_request(binary=True)
    _rejected("more data than inputs", server.infer(model, request, data + b"\x00\x00"))
    _rejected("no binary data", server.infer(model, request))
    for length in ("-1", "x", "99999999"):
        response = server.http.post(
            f"/v2/models/{model.name}/infer",
            content=json.dumps(request).encode() + data,
            headers={"Inference-Header-Content-Length": length},
        )
        _rejected(f"Inference-Header-Content-Length {length}", response)


@case("strict", "BYTES whose lengths are wrong are an error")
def wrong_bytes(server: Server, model: Model) -> None:
    if model.datatype != "BYTES":
        raise Skipped("not BYTES")
    _needs_binary(server)
    for data in (b"\xff\xff\xff\xff", b"\x01\x00", b"\x05\x00\x00\x00ab"):
        request = model.rest_request(binary=True, parameters={"binary_data_size": len(data)})
        _rejected(f"{data!r}", server.infer(model, request, data))


@case("repository", "POST v2/repository/index lists each model with name, version and state")
def repository_index(server: Server, model: Model) -> None:
    index = ok(server.http.post("/v2/repository/index", json={}))
    entry = next((entry for entry in index if entry.get("name") == model.name), None)
    require(entry is not None and entry.get("state") == "READY", f"{entry}")


@case("repository", "a model can be unloaded and loaded")
def repository_load(server: Server, model: Model) -> None:
    path = f"/v2/repository/models/{model.name}"
    ok(server.http.post(f"{path}/unload", json={}))
    require(server.http.get(f"/v2/models/{model.name}/ready").status_code != 200, "ready after its unload")
    ok(server.http.post(f"{path}/load", json={}))
    model_ready(server, model)


@case("repository", "a model that does not exist cannot be loaded", per_model=False)
def repository_unknown(server: Server, model: Model) -> None:
    rejected(server.http.post(f"/v2/repository/models/{UNKNOWN}/load", json={}))


def _needs_json(model: Model) -> None:
    if model.datatype in values.NOT_JSON:
        raise Skipped(f"{model.datatype} has no JSON form in the specification")


def _needs_binary(server: Server) -> None:
    if BINARY not in server.extensions:
        raise Skipped(f"the server does not announce {BINARY}")


def _rejected(name: str, response: Any) -> None:
    try:
        rejected(response)
    except Failed as error:
        raise Failed(f"{name}: {error}") from None


def _constant(name: str) -> None:
    raise ValueError(f"it has {name}")
