"""gRPC server of the Open Inference Protocol, on an address of its own: it serves no contract of the platform.

The data plane sets the caller's identity in the metadata, as it does in the headers of HTTP requests.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from drw.api.inference.v2 import open_inference_pb2 as pb
from drw.kernel.errors import DrwError, InternalError, TooLarge, Unavailable, Unimplemented
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal, caller
from drw.kernel.rpc.transport import translated_errors
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.open_inference import grpc_messages
from drw.models.serving.open_inference.inference import Inference
from drw.models.serving.open_inference.repository import INVOKE, Repository

SERVICE = "inference.GRPCInferenceService"
MAX_CONCURRENT = 512
PING_MS = 5_000

log = logging.getLogger(__name__)

Handler = Callable[[Any], Awaitable[Message]]


class InferenceMethods:
    """The methods of the protocol."""

    def __init__(
        self, inference: Inference, repository: Repository, kills: KillList, audit: AuditWriter, buffers: BodyBuffers
    ) -> None:
        self._inference = inference
        self._repository = repository
        self._kills = kills
        self._audit = audit
        self._buffers = buffers

    async def server_live(self, request: pb.ServerLiveRequest) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest) -> Message:
        return pb.ServerReadyResponse(ready=True)

    async def model_ready(self, request: pb.ModelReadyRequest) -> Message:
        return pb.ModelReadyResponse(ready=await self._repository.is_ready(request.name, request.version))

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> Message:
        return pb.ServerMetadataResponse(**self._repository.server())

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> Message:
        return grpc_messages.metadata(await self._repository.metadata(request.name, request.version))

    async def repository_index(self, request: pb.RepositoryIndexRequest) -> Message:
        entries = await self._repository.index(ready_only=request.ready)
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[index(name=e.name, version=e.version, state=e.state, reason=e.reason) for e in entries]
        )

    async def repository_model_load(self, request: pb.RepositoryModelLoadRequest) -> Message:
        await self._repository.load(request.model_name, dict(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: pb.RepositoryModelUnloadRequest) -> Message:
        parameters = {name: value.bool_param for name, value in request.parameters.items()}
        await self._repository.unload(request.model_name, parameters)
        return pb.RepositoryModelUnloadResponse()

    async def model_infer(self, request: pb.ModelInferRequest) -> Message:
        """Serve one inference; the call record is always written."""
        with self._buffers.reserve(caller().org) as reserve_bytes:
            reserve_bytes(request.ByteSize())
            record = CallRecord(self._audit, "inference", request.SerializeToString(deterministic=True))
            try:
                caller().require_scope(INVOKE)
                with self._kills.guard_block(caller(), lambda: record.models):
                    return await self._infer(request, record)
            except BaseException as error:
                await record.fail(error)
                raise

    async def _infer(self, message: pb.ModelInferRequest, record: CallRecord) -> Message:
        request = grpc_messages.decode(message)
        responses: list[pb.ModelInferResponse] = []

        def render(model: str, version: str, outputs: Any) -> bytes:
            responses.append(grpc_messages.encode(request, model, version, outputs))
            return responses[-1].SerializeToString(deterministic=True)

        await self._inference.run(request, record, render)
        return responses[-1]


class InferenceServer:
    """Listens for gRPC calls of the data plane."""

    def __init__(self, methods: InferenceMethods, address: str, max_message: int) -> None:
        self._address = address
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message),
                ("grpc.max_send_message_length", -1),  # the runtime bounds the outputs
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
            ],
            maximum_concurrent_rpcs=MAX_CONCURRENT,
        )
        self._server.add_generic_rpc_handlers([_handlers(methods)])

    async def start(self) -> None:
        """Listen.

        Raises:
            Unavailable: the address is in use.
        """
        try:
            self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise Unavailable(f"cannot listen at {self._address!r}: is it in use?") from error
        await self._server.start()

    async def stop(self) -> None:
        """Stop accepting calls, and wait for those in progress."""
        await self._server.stop(grace=10)


def _handlers(methods: InferenceMethods) -> grpc.GenericRpcHandler:
    descriptor = pb.DESCRIPTOR.services_by_name[SERVICE.partition(".")[2]]
    handlers: dict[str, Any] = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _serve(method.name, getattr(methods, _snake(method.name))),
            request_deserializer=getattr(pb, method.input_type.name).FromString,
            response_serializer=_to_bytes,
        )
        for method in descriptor.methods
    }
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(_reject_stream)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


async def _reject_stream(requests: Any, grpc_context: Any) -> None:
    error = Unimplemented(
        "ModelStreamInfer is not part of the Open Inference Protocol and not implemented: use ModelInfer"
    )
    await grpc_context.abort(grpc.StatusCode.UNIMPLEMENTED, error.message)


def _serve(method: str, run: Handler) -> Any:
    async def serve(message: Message, grpc_context: Any) -> Message:
        headers = {name: str(value) for name, value in grpc_context.invocation_metadata()}
        with (
            telemetry.Request("inference", method, headers) as request,
            context.acting_for(Principal.from_headers(headers)),
            context.deadline(grpc_context.time_remaining()),
        ):
            if principal := context.caller_or_none():
                request.fields |= {"key": principal.key, "desk": principal.desk}
            try:
                caller()  # every method needs a key
                with translated_errors("inference", method):
                    answer = await run(message)
                request.finish("OK")
                return answer
            except DrwError as error:
                request.record_error(error)
                request.finish(error.code, logging.ERROR if isinstance(error, InternalError) else logging.INFO)
                code = "RESOURCE_EXHAUSTED" if isinstance(error, TooLarge) else error.code
                await grpc_context.abort(grpc.StatusCode[code], error.message)
            except BaseException:
                request.finish("CANCELLED")
                raise
        raise AssertionError("unreachable: aborting raises")

    return serve


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
