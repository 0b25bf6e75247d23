"""Cases over gRPC."""

from __future__ import annotations

import grpc

from conformance.open_inference import values
from conformance.open_inference.case import Failed, Model, Server, Skipped, case, rejected_call, require
from drw.api.inference.v2 import open_inference_pb2 as pb

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@case("core", "ServerLive and ServerReady are true", per_model=False)
def grpc_health(server: Server, model: Model) -> None:
    require(server.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live, "not live")
    require(server.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready, "not ready")


@case("core", "ServerMetadata has name and version", per_model=False)
def grpc_server_metadata(server: Server, model: Model) -> None:
    metadata = server.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    require(bool(metadata.name and metadata.version), f"{metadata}")


@case("core", "ModelMetadata has inputs and outputs with datatype and shape")
def grpc_model_metadata(server: Server, model: Model) -> None:
    metadata = server.call("ModelMetadata", pb.ModelMetadataRequest(name=model.name), pb.ModelMetadataResponse)
    require(metadata.name == model.name and bool(metadata.platform), f"{metadata}")
    require([tensor.datatype for tensor in metadata.inputs] == [model.datatype], f"{metadata}")


@case("core", "ModelReady is true for a loaded model, and false or an error for an unknown one")
def grpc_model_ready(server: Server, model: Model) -> None:
    require(server.call("ModelReady", pb.ModelReadyRequest(name=model.name), pb.ModelReadyResponse).ready, "not ready")
    try:
        unknown = server.call("ModelReady", pb.ModelReadyRequest(name="no-such-model"), pb.ModelReadyResponse)
    except grpc.RpcError:
        return
    require(not unknown.ready, "an unknown model is ready")


@case("core", "raw contents return unchanged, with the id of the request")
def grpc_raw(server: Server, model: Model) -> None:
    request = model.grpc_request()
    request.id = "request-7"
    response = server.call("ModelInfer", request, pb.ModelInferResponse)
    require(response.id == "request-7" and response.model_name == model.name, f"{response}")
    (output,) = response.outputs
    require(output.datatype == model.datatype and list(output.shape) == model.shape, f"{output}")
    require(_values(response, model) == model.samples, f"{_values(response, model)} instead of {model.samples}")


@case("core", "typed contents return unchanged; FP16 and BF16 must be raw")
def grpc_typed(server: Server, model: Model) -> None:
    request = model.grpc_request()
    del request.raw_input_contents[:]
    if (field := CONTENTS.get(model.datatype)) is None:
        request.inputs[0].contents.fp32_contents.extend(model.samples)
        rejected_call(lambda: server.call("ModelInfer", request, pb.ModelInferResponse))
        return
    samples = [v.encode() for v in model.samples] if model.datatype == "BYTES" else model.samples
    getattr(request.inputs[0].contents, field).extend(samples)
    response = server.call("ModelInfer", request, pb.ModelInferResponse)
    require(_values(response, model) == model.samples, f"{_values(response, model)} instead of {model.samples}")


@case("core", "an unknown model is an error", per_model=False)
def grpc_unknown_model(server: Server, model: Model) -> None:
    request = model.grpc_request()
    request.model_name = "no-such-model"
    rejected_call(lambda: server.call("ModelInfer", request, pb.ModelInferResponse))


@case("strict", "a request that contradicts itself or the model is an error")
def grpc_contradictions(server: Server, model: Model) -> None:
    for changes in ({"name": "no-such-input"}, {"datatype": "FP33"}, {"shape": [-1, -1]}, {"shape": [2, 3]}):
        _rejected(server, f"{changes}", model.grpc_request(**changes))
    request = model.grpc_request()
    request.raw_input_contents.append(b"")
    _rejected(server, "more raw contents than inputs", request)
    request = model.grpc_request()
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    _rejected(server, "an input twice", request)
    request = model.grpc_request()
    request.inputs[0].contents.fp32_contents.append(1)
    _rejected(server, "raw and typed contents", request)
    request = model.grpc_request()
    request.raw_input_contents[0] += b"\x00"
    _rejected(server, "a byte too much", request)
    request = model.grpc_request()
    request.outputs.add(name="no-such-output")
    _rejected(server, "an unknown output", request)


@case("repository", "RepositoryIndex lists the model, which can be unloaded and loaded")
def grpc_repository(server: Server, model: Model) -> None:
    try:
        index = server.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise Skipped("the server has no repository over gRPC") from None
        raise
    require(any(entry.name == model.name and entry.state == "READY" for entry in index.models), f"{index}")
    unload = pb.RepositoryModelUnloadRequest(model_name=model.name)
    server.call("RepositoryModelUnload", unload, pb.RepositoryModelUnloadResponse)
    load = pb.RepositoryModelLoadRequest(model_name=model.name)
    server.call("RepositoryModelLoad", load, pb.RepositoryModelLoadResponse)
    ready = server.call("ModelReady", pb.ModelReadyRequest(name=model.name), pb.ModelReadyResponse)
    require(ready.ready, "not ready after its load")


def _values(response: pb.ModelInferResponse, model: Model) -> list[object]:
    if response.raw_output_contents:
        return values.decode(model.datatype, response.raw_output_contents[0])
    contents = getattr(response.outputs[0].contents, CONTENTS.get(model.datatype, "fp32_contents"))
    return [value.decode() if isinstance(value, bytes) else value for value in contents]


def _rejected(server: Server, name: str, request: pb.ModelInferRequest) -> None:
    try:
        rejected_call(lambda: server.call("ModelInfer", request, pb.ModelInferResponse))
    except Failed as error:
        raise Failed(f"{name}: {error}") from None
