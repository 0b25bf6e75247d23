"""Cases of the suite: what is called, and what is required."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import grpc
import httpx

from conformance.open_inference import values
from drw.api.inference.v2 import open_inference_pb2 as pb

Part = Literal["core", "binary", "repository", "strict"]
"""core: the specification. binary, repository: its extensions. strict: errors for contradictory requests."""

SERVICE = "/inference.GRPCInferenceService/"
SECONDS = 60


class Failed(Exception):
    """The server does not meet the requirement."""


class Skipped(Exception):
    """The case does not apply to this server."""


@dataclass(frozen=True)
class Model:
    """A model of the server that returns its only input as its only output."""

    name: str
    version: str
    input: str
    output: str
    datatype: str

    @property
    def shape(self) -> list[int]:
        """The shape of the sample request."""
        return [2, 2]

    @property
    def samples(self) -> list[Any]:
        """The values of the sample request."""
        return values.samples(self.datatype)

    def same(self, found: list[Any], expected: list[Any] | None = None) -> bool:
        """Return whether values are equal in the data type of the model: JSON can have more or fewer digits."""
        try:
            encoded = values.encode(self.datatype, found)
        except (struct.error, AttributeError, OverflowError):
            return False
        return encoded == values.encode(self.datatype, self.samples if expected is None else expected)

    def rest_request(self, *, binary: bool = False, **changes: Any) -> dict[str, Any]:
        """Return the JSON of the sample request; `changes` replace fields of its input."""
        item: dict[str, Any] = {"name": self.input, "datatype": self.datatype, "shape": self.shape}
        if binary:
            item["parameters"] = {"binary_data_size": len(values.encode(self.datatype, self.samples))}
        else:
            item["data"] = self.samples
        return {"inputs": [item | changes]}

    def grpc_request(self, **changes: Any) -> pb.ModelInferRequest:
        """Return the sample request with raw contents."""
        request = pb.ModelInferRequest(model_name=self.name)
        fields = {"name": self.input, "datatype": self.datatype, "shape": self.shape} | changes
        request.inputs.add(**fields)
        request.raw_input_contents.append(values.encode(self.datatype, self.samples))
        return request


class Server:
    """The server under test."""

    def __init__(self, url: str, grpc_address: str, headers: dict[str, str]) -> None:
        self.http = httpx.Client(base_url=url, headers=headers, timeout=SECONDS)
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(grpc_address, options) if grpc_address else None

    @cached_property
    def extensions(self) -> tuple[str, ...]:
        """The extensions that the server announces."""
        return tuple(ok(self.http.get("/v2")).get("extensions") or ())

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        if self._channel:
            self._channel.close()

    def infer(self, model: Model, request: Any, binary: bytes = b"", **headers: str) -> httpx.Response:
        """Send an inference request over REST, with binary data after its JSON if there is any."""
        text = httpx.Request("POST", "http://x", json=request).content
        if binary:
            headers["Inference-Header-Content-Length"] = str(len(text))
        content_type = "application/octet-stream" if binary else "application/json"
        headers = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.http.post(f"/v2/models/{model.name}/infer", content=text + binary, headers=headers)

    def call(self, method: str, request: Any, response: Any) -> Any:
        """Call a method over gRPC; raises `grpc.RpcError`."""
        if self._channel is None:
            raise Skipped("no gRPC address")
        unary: Any = self._channel.unary_unary(
            f"{SERVICE}{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return unary(request, timeout=SECONDS, metadata=self._metadata)


@dataclass(frozen=True)
class Case:
    """One requirement."""

    name: str
    part: Part
    requirement: str
    check: Callable[[Server, Model], None]
    per_model: bool


CASES: list[Case] = []


def case(part: Part, requirement: str, *, per_model: bool = True) -> Callable[[Any], Any]:
    """Register a function as a case."""

    def register(function: Any) -> Any:
        CASES.append(Case(function.__name__, part, requirement, function, per_model))
        return function

    return register


def require(condition: bool, message: str) -> None:
    """Raise `Failed` unless the condition holds."""
    if not condition:
        raise Failed(message)


def ok(response: httpx.Response) -> Any:
    """Return the JSON of a successful response."""
    require(response.status_code == 200, f"status {response.status_code}: {response.text[:200]}")
    return json_of(response) if response.content else None


def json_of(response: httpx.Response) -> Any:
    """Return the JSON of a response, which may have binary data after it."""
    length = response.headers.get("inference-header-content-length")
    content = response.content[: int(length)] if length else response.content
    try:
        return httpx.Response(200, content=content).json()
    except ValueError:
        raise Failed(f"the response is not JSON: {content[:100]!r}") from None


def rejected(response: httpx.Response) -> None:
    """Require an error with a status of 400 to 499 and a message in the field `error`."""
    require(400 <= response.status_code < 500, f"status {response.status_code}, not 4xx: {response.text[:200]}")
    message = json_of(response)
    require(isinstance(message, dict) and isinstance(message.get("error"), str), f"no error message: {message}")


def rejected_call(run: Callable[[], Any]) -> None:
    """Require a gRPC error that blames the request, with a message."""
    codes = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE)
    try:
        run()
    except grpc.RpcError as error:
        require(error.code() in codes, f"status {error.code().name}: {error.details()}")
        require(bool(error.details()), "no error message")
    else:
        raise Failed("the call succeeded")
