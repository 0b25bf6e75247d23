"""Transports between services: in-process or over gRPC, with the same clients, deadlines and errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from drw.api.contract import Client, Method, MethodNotImplemented, Servicer
from drw.catalog import BY_NAME, callers
from drw.kernel.errors import (
    DeadlineExceeded,
    DrwError,
    Forbidden,
    InternalError,
    TooLarge,
    Unavailable,
    Unimplemented,
)
from drw.kernel.observability import outcomes, telemetry
from drw.kernel.rpc import context, grpc_health
from drw.kernel.rpc.identities import Identities, Identity
from drw.kernel.rpc.lost_connections import LOST_CONNECTION_ERRORS, connection_lost
from drw.kernel.rpc.wire_errors import from_wire, to_wire
from drw.kernel.validation import validate

log = logging.getLogger(__name__)

UNARY_SECONDS = 30.0
STREAM_SECONDS = 900.0
PING_MS = 10_000
"""Keepalive: an idle connection is pinged after this time, and closed after the same time without a response."""
CONNECTION_AGE_MS = 300_000
"""Age at which a server asks the client of a TCP connection to open another one; calls in flight end first."""
GRACE_MS = int(STREAM_SECONDS * 1000)
MAX_MESSAGE_BYTES = 64 << 20
OPERATOR = "operator"
"""Caller name of the supervisor and of tools on its machine, which may call every service."""

ERROR_KEY = "drw-error-bin"
CALLER_KEY = "drw-caller-bin"
DEPTH_KEY = "drw-event-depth"
SERVICE_KEY = "drw-service"

C = TypeVar("C", bound=Client)


class LocalTransport:
    """Calls a service in this process, with the same deadlines and errors as over gRPC."""

    def __init__(self, servicer: Callable[[], Servicer], service: str) -> None:
        self._servicer = servicer
        self._service = service

    async def unary(self, method: Method, request: Message, timeout: float | None) -> Message:
        with (
            outcomes.counted(self._service, method.name),
            context.deadline(timeout or UNARY_SECONDS),
            translated_errors(self._service, method.name),
        ):
            validate(request)
            async with asyncio.timeout(context.time_left()):
                response: Message = await getattr(self._servicer(), method.python_name)(request)
                return response

    async def stream(self, method: Method, request: Message, timeout: float | None) -> AsyncGenerator[Message, None]:
        end = asyncio.get_running_loop().time() + min(timeout or STREAM_SECONDS, context.time_left() or STREAM_SECONDS)
        outcome, failure = outcomes.begin(self._service, method.name), None
        try:
            with translated_errors(self._service, method.name):
                validate(request)
                async with aclosing(getattr(self._servicer(), method.python_name)(request)) as responses:
                    while True:
                        # Around each message: the deadline must not interrupt the caller between messages.
                        async with asyncio.timeout_at(end):
                            if (response := await anext(responses, None)) is None:
                                return
                        if outcome is not None:
                            outcome.answered()
                        yield response
        except BaseException as error:
            failure = error
            raise
        finally:
            if outcome is not None:
                outcome.end(failure)
            del failure  # it refers to this frame


class GrpcTransport:
    """Calls a service in another process."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel], service: str, caller: str) -> None:
        self._channel = channel
        self._service = service
        self._caller = caller
        self._used_channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}

    async def unary(self, method: Method, request: Message, timeout: float | None) -> Message:
        seconds = min(timeout or UNARY_SECONDS, context.time_left() or UNARY_SECONDS)
        try:
            response: Message = await self._call(method)(request, timeout=seconds, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            drw_error = self._to_error(error)
            self._count_unanswered(error)
            if type(drw_error) is DeadlineExceeded and seconds > UNARY_SECONDS - 1:  # the default, not a caller's limit
                raise Unavailable(drw_error.message, service=self._service) from None
            raise drw_error from None
        return response

    async def stream(self, method: Method, request: Message, timeout: float | None) -> AsyncGenerator[Message, None]:
        seconds = min(timeout or STREAM_SECONDS, context.time_left() or STREAM_SECONDS)
        responses = self._call(method)(request, timeout=seconds, metadata=self._metadata())
        answered = False
        try:
            async for response in responses:
                answered = True
                yield response
        except grpc.aio.AioRpcError as error:
            if not answered:
                self._count_unanswered(error)
            raise self._to_error(error) from None
        finally:
            responses.cancel()

    def _call(self, method: Method) -> Any:
        if (channel := self._channel()) is not self._used_channel:
            self._used_channel, self._calls = channel, {}
        if method.name not in self._calls:
            factory = channel.unary_stream if method.streams else channel.unary_unary
            self._calls[method.name] = factory(
                method.path, request_serializer=_to_bytes, response_deserializer=method.response.FromString
            )
        return self._calls[method.name]

    def _count_unanswered(self, error: grpc.aio.AioRpcError) -> None:
        """Count a call without an answer of the service, which cannot count it itself."""
        info = any(key == ERROR_KEY for key, _ in error.trailing_metadata() or ())
        if not info and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            outcomes.count_unanswered(self._service)

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        metadata: list[tuple[str, str | bytes]] = [(SERVICE_KEY, self._caller)]
        metadata += telemetry.outgoing_headers().items()
        if principal := context.caller_or_none():
            metadata.append((CALLER_KEY, principal.to_wire()))
        if depth := context.event_depth():
            metadata.append((DEPTH_KEY, str(depth)))
        return metadata

    def _to_error(self, error: grpc.aio.AioRpcError) -> DrwError:
        info = next((v for k, v in error.trailing_metadata() or () if k == ERROR_KEY), None)
        if info is not None:
            return from_wire(error.code(), error.details() or "", cast(bytes, info))
        # Errors of gRPC itself: the service has not responded.
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return Unavailable(f"the {self._service} service does not answer", service=self._service)
            case grpc.StatusCode.CANCELLED:
                return Unavailable(f"the {self._service} service stopped before it answered", service=self._service)
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return DeadlineExceeded(f"the {self._service} service did not answer in time", service=self._service)
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return TooLarge(f"{self._service}: {error.details()}", service=self._service)
        return from_wire(error.code(), error.details() or "", None)


class Server:
    """Serves the services of one process over gRPC; with identities, only to callers with a certificate.

    `name` is the identity of the process. `rotate`: ask clients to reconnect from time to time, so that they find
    replicas that have started since.
    """

    def __init__(
        self,
        servicers: Sequence[Servicer],
        health: grpc_health.HealthServicer | None = None,
        identities: Identities | None = None,
        name: str = "",
        *,
        rotate: bool = False,
    ) -> None:
        self._identities = identities
        self._name = name
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", PING_MS // 2),
        ]
        if rotate:
            options += [
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
                ("grpc.max_connection_age_grace_ms", GRACE_MS),
            ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers([_handler(s, identities) for s in servicers])
        if health is not None:
            grpc_health.add_to(health, self._server)

    async def start(self, address: str) -> str:
        """Listen at `unix:/path` or `host:port` (port 0 selects a free port), and return the address."""
        try:
            if self._identities is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._identities.server_credentials(self._name))
        except RuntimeError as error:
            raise Unavailable(f"cannot listen at {address!r}: is it in use?") from error
        await self._server.start()
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    async def stop(self, grace: float) -> None:
        """Stop accepting calls, and wait `grace` seconds for those in flight."""
        await self._server.stop(grace)


class Channels:
    """gRPC channels of this process, one for each address; with identities, one for each caller and service there."""

    def __init__(self, identities: Identities | None = None, caller: str = OPERATOR) -> None:
        self._identities = identities
        self._caller = caller
        self._channels: dict[tuple[str, ...], tuple[grpc.aio.Channel, Identity | None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def client(self, cls: type[C], address: str, caller: str = "") -> C:
        """Return a client of the service at the address; `caller` replaces the caller of the channels."""
        service, caller = cls.contract.service, caller or self._caller
        return cls(GrpcTransport(partial(self.channel, address, service, caller), service, caller))

    def channel(self, address: str, service: str, caller: str = "") -> grpc.aio.Channel:
        """Return the channel to the service at the address, with the newest certificate of the caller.

        Calls on the channel of an older certificate end there.
        """
        caller = caller or self._caller
        identity = self._identities.get(caller) if self._identities else None
        key = (address,) if identity is None else (address, service, caller)
        channel, used = self._channels.get(key, (None, None))
        if channel is not None and used is identity:
            return channel
        if channel is not None:
            closing = asyncio.create_task(channel.close(STREAM_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        channel = self._open(address, service, identity)
        self._channels[key] = channel, identity
        return channel

    async def close(self) -> None:
        """Close all channels."""
        for closing in self._closing:
            closing.cancel()
        async with AsyncExitStack() as stack:
            for channel, _ in self._channels.values():
                stack.push_async_callback(channel.close)

    def _open(self, address: str, service: str, identity: Identity | None) -> grpc.aio.Channel:
        if identity is None or self._identities is None:
            return grpc.aio.insecure_channel(address, options=_channel_options(address))
        options = [*_channel_options(address), ("grpc.ssl_target_name_override", self._identities.server_name(service))]
        return grpc.aio.secure_channel(address, self._identities.channel_credentials(identity), options=options)


def _channel_options(address: str) -> list[tuple[str, int | str]]:
    # A name can resolve to several replicas.
    balancing = [] if address.startswith("unix:") else [("grpc.lb_policy_name", "round_robin")]
    return [
        *balancing,
        # The global pool would share connections, and the back-off after a failed one, with other channels.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", PING_MS),
        ("grpc.http2.ping_timeout_ms", PING_MS),
        ("grpc.http2.max_pings_without_data", 0),
    ]


@contextmanager
def translated_errors(service: str, method: str) -> Iterator[None]:
    """Convert exceptions of a service to `DrwError`."""
    try:
        yield
    except (DrwError, asyncio.CancelledError, GeneratorExit):
        raise
    except MethodNotImplemented:
        raise Unimplemented(f"{service}.{method} is not implemented in this release", service=service) from None
    except LOST_CONNECTION_ERRORS as error:  # before TimeoutError, which some of them derive from
        log.warning("a connection was lost in %s.%s", service, method, exc_info=error)
        raise connection_lost(service) from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"{service}.{method} did not end in time", service=service) from error
    except Exception as error:  # the boundary of a call: a bug becomes an error without details
        log.exception("unexpected error in %s.%s", service, method)
        raise InternalError(f"unexpected error in {service}.{method}", service=service) from error


def _handler(servicer: Servicer, identities: Identities | None) -> grpc.GenericRpcHandler:
    contract = servicer.contract
    handlers = {}
    for method in contract.methods.values():
        factory = grpc.unary_stream_rpc_method_handler if method.streams else grpc.unary_unary_rpc_method_handler
        serve = _serve_stream if method.streams else _serve_unary
        handlers[method.name] = factory(
            serve(servicer, method, identities),
            request_deserializer=method.request.FromString,
            response_serializer=_to_bytes,
        )
    return grpc.method_handlers_generic_handler(contract.name, handlers)


def _serve_unary(servicer: Servicer, method: Method, identities: Identities | None) -> Any:
    service = servicer.contract.service
    run = getattr(servicer, method.python_name)

    async def serve(request: Message, grpc_context: Any) -> Message:
        async with _ServedCall(service, method, grpc_context, identities):
            validate(request)
            response: Message = await run(request)
            return response
        raise AssertionError("unreachable: aborting raises")

    return serve


def _serve_stream(servicer: Servicer, method: Method, identities: Identities | None) -> Any:
    service = servicer.contract.service
    run = getattr(servicer, method.python_name)

    # Not a generator: a call that is cancelled while it sends would leave it open until garbage collection.
    async def serve(request: Message, grpc_context: Any) -> None:
        async with _ServedCall(service, method, grpc_context, identities) as call:
            validate(request)
            async with aclosing(run(request)) as responses:
                async for response in responses:
                    call.answered()
                    await grpc_context.write(response)

    return serve


class _ServedCall:
    """Context of one served call: caller, deadline, permission, errors, telemetry."""

    def __init__(self, service: str, method: Method, grpc_context: Any, identities: Identities | None) -> None:
        self._identities = identities
        self._service = service
        self._method = method
        self._context = grpc_context
        self._stack = AsyncExitStack()

    def answered(self) -> None:
        """Report the first message of the answer."""
        if self._outcome is not None:
            self._outcome.answered()

    async def __aenter__(self) -> _ServedCall:
        self._outcome = outcomes.begin(self._service, self._method.name)
        metadata = dict(self._context.invocation_metadata())
        self._request = self._stack.enter_context(telemetry.Request(self._service, self._method.name, metadata))
        principal = metadata.get(CALLER_KEY)
        self._stack.enter_context(context.acting_for(context.Principal.from_wire(principal) if principal else None))
        self._stack.enter_context(context.at_event_depth(int(metadata.get(DEPTH_KEY, 0))))
        self._stack.enter_context(context.deadline(self._context.time_remaining()))
        try:
            _check_permission(self._service, self._caller(str(metadata.get(SERVICE_KEY, ""))))
        except DrwError as error:
            await self.__aexit__(type(error), error, None)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            with translated_errors(self._service, self._method.name):
                if error is not None:
                    raise error
            self._request.finish("OK")
            self._end()
        except DrwError as served_error:
            self._end(served_error)
            self._request.record_error(served_error)
            level = logging.ERROR if isinstance(served_error, InternalError) else logging.INFO
            self._request.finish(served_error.code, level)
            message, info = to_wire(served_error, self._service)
            self._context.set_trailing_metadata(((ERROR_KEY, info),))
            await self._context.abort(grpc.StatusCode[served_error.code], message)
        except BaseException as given_up:
            self._end(given_up)
            self._request.finish("CANCELLED")
            raise
        finally:
            await self._stack.aclose()

    def _caller(self, declared: str) -> str:
        """Return the name of the calling service: with identities, the one that its certificate proves."""
        if self._identities is None:
            return declared
        proven = self._identities.caller(self._context.auth_context())
        if declared != proven:
            raise Forbidden(f"{proven!r} calls as {declared!r}, which its certificate does not prove")
        return proven

    def _end(self, error: BaseException | None = None) -> None:
        if self._outcome is not None:
            self._outcome.end(error)


def _check_permission(service: str, caller: str) -> None:
    if service not in BY_NAME or caller == OPERATOR or caller in callers(service):
        return
    raise Forbidden(f"{caller!r} may not call {service!r}: the catalog does not list this call")


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
