"""Inference requests, independent of REST and gRPC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drw.kernel.errors import InvalidRequest
from drw.tensors.datatypes import Tensor, TensorSpec

MAX_TENSORS = 1000
MAX_ID = 1000
MAX_TIMEOUT_MICROSECONDS = 3_600_000_000
UNSUPPORTED = {
    "sequence_id": "sequences are not supported",
    "sequence_start": "sequences are not supported",
    "sequence_end": "sequences are not supported",
    "priority": "priorities are not supported",
    "shared_memory_region": "shared memory is not supported; send the tensor in the request",
    "shared_memory_byte_size": "shared memory is not supported; send the tensor in the request",
    "shared_memory_offset": "shared memory is not supported; send the tensor in the request",
    "classification": "the classification extension is not supported",
    "config": "a configuration cannot be given with the load; it is a setting",
}
TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the request names."""

    name: str
    binary: bool = False


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference request."""

    model: str
    version: str
    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...]
    timeout_seconds: float | None
    """Time limit of the request; None: that of the runtime."""
    binary_outputs: bool
    """Whether outputs without a choice of their own are binary."""

    @property
    def rows(self) -> int:
        """The rows that are processed and charged."""
        return max(1, max((tensor.rows for tensor in self.inputs), default=1))


def check_parameters(
    parameters: Mapping[str, Any], supported: Mapping[str, type | tuple[type, ...]], where: str
) -> None:
    """Raise `InvalidRequest` for a parameter that is not supported, or has the wrong type."""
    for name, value in parameters.items():
        if name in supported:
            if not isinstance(value, supported[name]) or (isinstance(value, bool) and supported[name] is int):
                raise InvalidRequest(f"the parameter {name!r} of {where} has the wrong type", param=name)
        elif name in UNSUPPORTED:
            raise InvalidRequest(f"the parameter {name!r} of {where}: {UNSUPPORTED[name]}", param=name)
        else:
            available = ", ".join(supported) or "none"
            raise InvalidRequest(f"{name!r} is not a parameter of {where}; there are: {available}", param=name)


def timeout_seconds(parameters: Mapping[str, Any]) -> float | None:
    """Return the parameter `timeout`, which is in microseconds, in seconds; None without one."""
    if (microseconds := parameters.get(TIMEOUT)) is None:
        return None
    if not 0 < microseconds <= MAX_TIMEOUT_MICROSECONDS:
        message = f"timeout is {microseconds}; it can be 1 to {MAX_TIMEOUT_MICROSECONDS} microseconds"
        raise InvalidRequest(message, param=TIMEOUT)
    return float(microseconds) / 1e6


def check_names(names: Sequence[str], kind: str) -> None:
    """Raise `InvalidRequest` if a name is empty or occurs twice, or there are too many."""
    if len(names) > MAX_TENSORS:
        raise InvalidRequest(f"there are {len(names)} {kind}s; at most {MAX_TENSORS}", param=f"{kind}s")
    for name, number in Counter(names).items():
        if not name:
            raise InvalidRequest(f"an {kind} has no name", param=f"{kind}s")
        if number > 1:
            raise InvalidRequest(f"the {kind} {name!r} is given {number} times", param=f"{kind}s")


def check_against_model(request: InferRequest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise `InvalidRequest` if names, data types or shapes do not match those of the model."""
    expected = {spec.name: spec for spec in inputs}
    for tensor in request.inputs:
        if (spec := expected.get(tensor.name)) is None:
            raise InvalidRequest(
                f"the model has no input {tensor.name!r}; there are: {', '.join(expected)}", param="inputs"
            )
        _check_tensor(tensor, spec)
    if missing := [name for name in expected if name not in {tensor.name for tensor in request.inputs}]:
        raise InvalidRequest(f"the input {missing[0]!r} is missing", param="inputs")
    _check_symbols(request.inputs, expected)
    available = [spec.name for spec in outputs]
    for output in request.outputs:
        if output.name not in available:
            raise InvalidRequest(
                f"the model has no output {output.name!r}; there are: {', '.join(available)}", param="outputs"
            )


def _check_tensor(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        message = f"the input {tensor.name!r} has the datatype {tensor.datatype}; the model takes {spec.datatype}"
        raise InvalidRequest(message, param="inputs")
    fits = len(tensor.shape) == len(spec.shape) and all(
        size in (-1, given) for given, size in zip(tensor.shape, spec.shape, strict=True)
    )
    if not fits:
        message = f"the input {tensor.name!r} has the shape {list(tensor.shape)}; the model takes {list(spec.shape)}"
        raise InvalidRequest(message, param="inputs")


def _check_symbols(tensors: Sequence[Tensor], specs: Mapping[str, TensorSpec]) -> None:
    """Check that dimensions of one name have one size."""
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in tensors:
        for size, symbol in zip(tensor.shape, specs[tensor.name].symbols, strict=False):
            if not symbol:
                continue
            first, other = sizes.setdefault(symbol, (size, tensor.name))
            if first != size:
                message = f"the inputs {other!r} and {tensor.name!r} have different sizes of the dimension {symbol!r}"
                raise InvalidRequest(f"{message}: {first} and {size}", param="inputs")
