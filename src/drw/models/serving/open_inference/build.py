"""Connects the Open Inference Protocol to the process of serving: REST routes and the gRPC server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from starlette.types import ASGIApp

from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.endpoints import AuditedEndpoints
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.open_inference import rest
from drw.models.serving.open_inference.grpc_server import InferenceMethods, InferenceServer
from drw.models.serving.open_inference.inference import Inference
from drw.models.serving.open_inference.repository import Repository
from drw.models.serving.routing.runtime_directory import RuntimeDirectory
from drw.models.serving.settings import Settings


def serve_open_inference(
    scope: ServiceContext,
    settings: Settings,
    models: RuntimeDirectory,
    metering: BudgetGate,
    kills: KillList,
    audit: AuditWriter,
    buffers: BodyBuffers,
) -> None:
    """Add the routes, and start the gRPC server with the process if the profile has an address for it."""
    inference, repository = Inference(models, metering, Random()), Repository(models, audit)

    endpoints = AuditedEndpoints(audit, kills, buffers, settings.max_body_bytes)

    def audited(serve: Callable[[HttpExchange, CallRecord], Awaitable[None]]) -> ASGIApp:
        return endpoints.endpoint("inference", serve)

    scope.routes += rest.routes(inference, repository, audited, settings.runtime.max_json_bytes)
    if address := scope.profile.inference_address():
        methods = InferenceMethods(inference, repository, kills, audit, buffers)
        server = InferenceServer(methods, address, settings.max_body_bytes)
        scope.on_start(server.start)
        scope.on_stop(server.stop)
