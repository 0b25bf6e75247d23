"""Base classes of the generated contracts: methods, services and clients."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, cast

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a contract."""

    name: str
    service: str
    request: type[Message]
    response: type[Message]
    streams: bool
    safe: bool
    """Whether the method is idempotent."""
    descriptor: MethodDescriptor = field(repr=False)

    @property
    def path(self) -> str:
        """The method's path on the wire, as in `/drw.api.rag.v1.Retrieval/Search`."""
        return f"/{self.service}/{self.name}"

    @property
    def python_name(self) -> str:
        """The name of the Python method, as in `create_key`."""
        return snake(self.name)


@dataclass(frozen=True, slots=True)
class Contract:
    """One service as its proto file describes it."""

    name: str
    methods: dict[str, Method]

    @classmethod
    def of(cls, descriptor: ServiceDescriptor) -> Contract:
        """Read the contract from its descriptor."""
        return cls(descriptor.full_name, {m.name: _method(m) for m in descriptor.methods})

    @property
    def service(self) -> str:
        """The service's name in the catalog, as in `vector_store`."""
        return snake(self.name.rpartition(".")[2])


class Transport(Protocol):
    """Transport of a client's calls to the service."""

    async def unary(self, method: Method, request: Message, timeout: float | None) -> Message:
        """Call a method, and return its response."""

    def stream(self, method: Method, request: Message, timeout: float | None) -> AsyncGenerator[Message, None]:
        """Call a streaming method, and yield its responses."""


class Client:
    """Base of the generated clients."""

    contract: ClassVar[Contract]

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def wrapped(self, wrap: Callable[[Transport], Transport]) -> Self:
        """Return a client whose calls pass through a wrapped transport."""
        return type(self)(wrap(self._transport))

    async def _unary(self, name: str, request: Message, timeout: float | None) -> Any:
        return await self._transport.unary(self.contract.methods[name], request, timeout)

    def _stream(self, name: str, request: Message, timeout: float | None) -> AsyncGenerator[Any, None]:
        return self._transport.stream(self.contract.methods[name], request, timeout)


class MethodNotImplemented(NotImplementedError):
    """The service does not implement a method of its contract."""


class Servicer:
    """Base of the generated services; a method that is not overridden raises `MethodNotImplemented`."""

    contract: ClassVar[Contract]

    @classmethod
    def implemented_methods(cls) -> frozenset[str]:
        """Return the names of the methods that the service implements."""
        base = next(c for c in cls.__mro__ if "contract" in vars(c))
        return frozenset(
            m.name
            for m in cls.contract.methods.values()
            if getattr(cls, m.python_name) is not getattr(base, m.python_name)
        )


def snake(name: str) -> str:
    """Return a CamelCase name in snake_case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _method(descriptor: MethodDescriptor) -> Method:
    options = cast(MethodOptions, descriptor.GetOptions())
    return Method(
        name=descriptor.name,
        service=descriptor.containing_service.full_name,
        request=GetMessageClass(descriptor.input_type),
        response=GetMessageClass(descriptor.output_type),
        streams=descriptor.server_streaming,
        safe=options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN,
        descriptor=descriptor,
    )
