"""Host: builds the services of one process, injects their dependencies, starts and stops them."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from inspect import getmembers, isabstract, isclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from prometheus_client import Gauge
from pydantic import ValidationError
from starlette.routing import BaseRoute

from drw.api.contract import Client, Servicer, Transport
from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest, ProcessStatus, RequestCounts, ServiceStatus
from drw.api.kernel.v1.kernel_rpc import Process
from drw.catalog import BY_NAME, Service
from drw.kernel.errors import DrwError, Unavailable
from drw.kernel.observability import outcomes, telemetry
from drw.kernel.rpc import grpc_health, transport
from drw.kernel.rpc.http import rest
from drw.kernel.rpc.http import server as http_server
from drw.kernel.rpc.http.counted_routes import counted
from drw.kernel.runtime.mutual_tls import identities_of
from drw.kernel.runtime.readiness import TIMEOUT_SECONDS, Check, Readiness
from drw.kernel.runtime.settings import ConfigError, Profile, Settings, explain
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database

log = logging.getLogger(__name__)

CANCEL_SECONDS = 1.0
"""Interval at which background tasks that have not ended are cancelled again."""

C = TypeVar("C", bound=Client)
P = TypeVar("P")
S = TypeVar("S", bound=Settings)

POSTGRES = "postgres"
"""The name of the database as a dependency."""
SCRAPE_SECONDS = 2.0
READY = Gauge("drw_service_ready", "1: the service works; 0: `drw status` shows the reason.", ["service"])

State = ServiceStatus.State
Hook = Callable[[], Awaitable[None]]
Detail = Callable[[], Awaitable[str]]


class Host:
    """The services of one process.

    `name` is a process of the profile; `services` overrides its services, for tests. `wrap` wraps each local transport.
    """

    def __init__(
        self,
        profile: Profile,
        name: str,
        services: Sequence[str] | None = None,
        wrap: Callable[[Transport], Transport] = lambda transport: transport,
    ) -> None:
        self.profile = profile
        self.name = name
        self._names = tuple(services if services is not None else profile.processes[name].services)
        self._wrap = wrap
        self._servicers: dict[str, Servicer] = {}
        self._scopes: dict[str, ServiceContext] = {}
        self._states: dict[str, State] = dict.fromkeys(self._names, State.STARTING)
        self._identities = identities_of(profile)
        self._channels = transport.Channels(self._identities)
        self._audit_database = self.database("audit", pool_size=2)
        self._server: transport.Server | None = None
        self._http: http_server.HttpServer | None = None
        self._probes: http_server.HttpServer | None = None
        self._health = grpc_health.HealthServicer()
        self._draining = False
        self.readiness = Readiness(self._publish_readiness)
        check_sections(profile)

    async def start(self, grpc: str | None = None, http_address: str | None = None) -> tuple[str, str]:
        """Build and start all services, then listen; return the gRPC and the HTTP address."""
        await self._audit_database.start("drw.kernel.storage")
        for name in self._names:
            await self._build(name)
        address = self.profile.processes.get(self.name)
        grpc = grpc or (address.listener(address.grpc) if address else "127.0.0.1:0")
        http_address = http_address or (address.listener(address.http) if address else "127.0.0.1:0")
        servicers, rotate = [*self._servicers.values(), Status(self)], not grpc.startswith("unix:")
        self._server = transport.Server(servicers, self._health, self._identities, self.name, rotate=rotate)
        self._http = http_server.HttpServer(self.app())
        addresses = await self._server.start(grpc), await self._http.start(http_address)
        if address and address.probes:
            self._probes = http_server.HttpServer(self._app_with([]))
            await self._probes.start(address.probes)
        for name in self._names:
            await self._scopes[name].run_start_hooks()
            self._states[name] = State.READY if self._servicers[name].implemented_methods() else State.UNIMPLEMENTED
        await self.readiness.start()
        log.info("ready", extra={"fields": {"services": list(self._names), "grpc": addresses[0], "http": addresses[1]}})
        return addresses

    async def stop(self, grace: float = 10.0) -> None:
        """Stop accepting requests, drain those in flight within `grace` seconds, stop services in reverse order."""
        self._draining = True
        self._publish_readiness()
        async with AsyncExitStack() as stack:  # runs all callbacks, last to first, even if one fails
            stack.push_async_callback(self._audit_database.stop)
            stack.push_async_callback(self._channels.close)
            for scope in self._scopes.values():
                stack.push_async_callback(scope.close)
            if self._server:
                stack.push_async_callback(self._server.stop, grace)
            if self._probes:
                stack.push_async_callback(self._probes.stop, 0)
            if self._http:
                stack.push_async_callback(self._http.stop, grace)
            stack.push_async_callback(self.readiness.stop)

    def app(self) -> Any:
        """Return the ASGI application of the process, with the REST and hand-written routes of all services."""
        resources = [(route, name) for name, servicer in self._servicers.items() for route in rest.routes(servicer)]
        # "/runs/{run}:watch" before "/runs/{run}", which also matches "/runs/x:watch".
        resources.sort(key=lambda resource: "}:" not in resource[0].path)
        hand_written = [(route, name) for name, scope in self._scopes.items() for route in scope.routes]
        return self._app_with([counted(route, name) for route, name in [*hand_written, *resources]])

    def _app_with(self, routes: Sequence[BaseRoute]) -> Any:
        return http_server.app(
            routes, self.name, self._update_gauges, http_server.Probes(self._has_started, self.not_ready)
        )

    def client(self, cls: type[C], caller: str = transport.OPERATOR) -> C:
        """Return a client of a service: in-process if the service runs in this process, otherwise over gRPC."""
        name = cls.contract.service
        if name in self._names:
            return cls(self._wrap(transport.LocalTransport(lambda: self._servicers[name], name)))
        return self._channels.client(cls, self.profile.address_of(name).grpc, caller)

    def channels(self, caller: str) -> transport.Channels:
        """Return new channels of a service to other processes."""
        return transport.Channels(self._identities, caller)

    def has(self, service: str) -> bool:
        """Return whether the service runs in this process or in another process of the profile."""
        return service in self._names or any(service in address.services for address in self.profile.processes.values())

    def database(self, schema: str, *, pool_size: int, idle_transaction_seconds: float | None = None) -> Database:
        """Return a schema of the profile's database."""
        return Database(
            self.profile.postgres,
            schema,
            pool_size=pool_size,
            await_migrations=self.profile.migrations == "await",
            idle_transaction_seconds=idle_transaction_seconds,
        )

    def audit(self, service: str) -> AuditWriter:
        """Return the writer of a service's audit records."""
        return AuditWriter(self._audit_database, service)

    async def status(self) -> ProcessStatus:
        """Return the status of each service of the process."""
        requests = {}
        for name in self._names:
            good, slow, failed = outcomes.counts(name)
            requests[name] = RequestCounts(good=good, slow=slow, failed=failed)
        return ProcessStatus(
            name=self.name,
            services=[await self._status_of(name) for name in self._names],
            instance=outcomes.INSTANCE,
            requests=requests,
            unanswered=outcomes.unanswered(),
        )

    def not_ready(self) -> Mapping[str, Sequence[str]]:
        """Return the services that are not ready with the dependencies that fail; without those not implemented."""
        if self._draining:
            return dict.fromkeys(self._names, ("stopping",))
        failing = self.readiness.report(name for name in self._names if self._states[name] != State.UNIMPLEMENTED)
        starting = {name: ["starting"] for name in self._names if self._states[name] == State.STARTING}
        return {name: needs for name, needs in failing.items() if needs} | starting

    async def check_service(self, service: str, caller: str) -> None:
        """Raise if a service of this or another process is not ready; `caller` is the service that needs it."""
        if service in self._names:
            ready = service not in self.not_ready()
        else:
            channel = self._channels.channel(self.profile.address_of(service).grpc, service, caller)
            ready = await grpc_health.is_serving(channel, BY_NAME[service].contract, TIMEOUT_SECONDS)
        if not ready:
            raise Unavailable(f"the {service} service is not ready", service=service)

    async def check_database(self) -> None:
        """Raise if PostgreSQL does not answer."""
        async with self._audit_database.transaction(seconds=TIMEOUT_SECONDS) as connection:
            await connection.execute("select 1")

    def _has_started(self) -> bool:
        return State.STARTING not in self._states.values()

    def _publish_readiness(self) -> None:
        failing = self.not_ready()
        statuses = {BY_NAME[name].contract: self._serves(name) and name not in failing for name in self._names}
        self._health.replace({**statuses, grpc_health.PROCESS: not failing})

    def _serves(self, name: str) -> bool:
        return self._states[name] != State.UNIMPLEMENTED

    async def _update_gauges(self) -> bytes:
        """Update the gauges of all services before a scrape, each within `SCRAPE_SECONDS`."""
        await asyncio.gather(*(self._update_gauges_of(name) for name in self._names))
        return b""

    async def _update_gauges_of(self, name: str) -> None:
        ready = False
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                await self._scopes[name].run_scrape_hooks()
                ready = (await self._status_of(name)).state in (State.READY, State.UNIMPLEMENTED)
        except (DrwError, TimeoutError) as error:
            log.warning("%s cannot be measured: %s", name, telemetry.error_type(error))
        READY.labels(name).set(ready)

    async def _status_of(self, name: str) -> ServiceStatus:
        state = self._states[name]
        detail = ""
        if state == State.READY:
            try:
                detail = await self._scopes[name].detail()
            except DrwError as error:
                state = State.DEGRADED
                detail = error.message
        elif state == State.UNIMPLEMENTED:
            detail = "not implemented in this release"
        return ServiceStatus(name=name, cluster=BY_NAME[name].cluster, state=state, detail=detail)

    async def _build(self, name: str) -> None:
        service = BY_NAME[name]
        module = importlib.import_module(f"{service.package}.service")
        scope = ServiceContext(self, service)
        self._scopes[name] = scope
        outcomes.announce(name)
        self._servicers[name] = await module.build(scope)
        scope.check_unknown_settings()


class Status(Process):
    """Serves `drw.api.kernel.v1.Process`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def get_status(self, request: GetStatusRequest, /) -> ProcessStatus:
        """Return how each service of this process is."""
        return await self._host.status()


class ServiceContext:
    """Dependencies that a host provides to one service while the service is built."""

    def __init__(self, host: Host, service: Service) -> None:
        self._host = host
        self._service = service
        self._section = host.profile.services.get(service.name, {})
        self._read_settings: set[str] = set()
        self._hooks: dict[str, list[Hook]] = {"start": [], "stop": [], "scrape": []}
        self._detail: Detail | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: list[BaseRoute] = []
        """Hand-written HTTP routes of the service."""

    @property
    def name(self) -> str:
        """The name of the service."""
        return self._service.name

    @property
    def profile(self) -> Profile:
        """The profile of the process."""
        return self._host.profile

    @property
    def folder(self) -> Path:
        """The data folder of the service."""
        path = self._host.profile.data / self._service.name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def settings(self, cls: type[S]) -> S:
        """Return the settings of the service."""
        self._read_settings |= cls.model_fields.keys()
        section = {k: v for k, v in self._section.items() if k in cls.model_fields}
        return validated(cls, section, self._service.name)

    def has(self, service: str) -> bool:
        """Return whether the profile or this process runs the service."""
        return self._host.has(service)

    def client(self, cls: type[C]) -> C:
        """Return a client of another service, which the catalog must list under `calls`."""
        name = cls.contract.service
        if name not in self._service.calls:
            raise ConfigError(f"{self._service.name!r} calls {name!r}, which its row in the catalog does not say")
        return self._host.client(cls, self._service.name)

    def channels(self) -> transport.Channels:
        """Return new channels to other processes; the service closes them."""
        return self._host.channels(self._service.name)

    def adapter(self, port: type[P], default: str | None = None) -> P:
        """Return the adapter of a port that the settings select, or the default adapter.

        The name of the setting is the last word of the port's name. Its value is a module in the service's
        `adapters`. The settings of that module are in a table with its name. For the port `TextEncoder`,
        `encoder = "onnx"` selects adapters/onnx.py with the settings in `[services.embedding.onnx]`.
        """
        key = re.findall("[A-Z][a-z0-9]*", port.__name__)[-1].lower()
        choice = self._section.get(key, default)
        names = self.adapters()
        self._read_settings |= {key, *names}
        if choice not in names:
            raise ConfigError(f"{self._service.name}.{key} is {choice!r}; it can be: {', '.join(names)}")
        return self.make_adapter(port, choice, self._section.get(choice, {}))

    def adapters(self) -> list[str]:
        """Return the names of the service's adapters."""
        package = importlib.import_module(f"{self._service.package}.adapters")
        return [m.name for m in pkgutil.iter_modules(package.__path__)]

    def make_adapter(self, port: type[P], name: str, section: dict[str, Any]) -> P:
        """Return the adapter of a port in the module `name`, with these settings."""
        module = importlib.import_module(f"{self._service.package}.adapters.{name}")
        adapter = _only_subclass(module, port)
        if settings := getattr(adapter, "Settings", None):
            return adapter(validated(settings, section, f"{self._service.name}.{name}"))
        return adapter()

    async def database(
        self, *, pool_size: int = 4, required: bool = True, idle_transaction_seconds: float | None = None
    ) -> Database:
        """Return the PostgreSQL schema of the service, migrated to the newest version.

        `required`: the service is not ready without the database. `idle_transaction_seconds`: see `Database`.
        """
        database = await self.shared_database(
            self._service.name,
            self._service.package,
            pool_size=pool_size,
            idle_transaction_seconds=idle_transaction_seconds,
        )
        if required:
            self.require_database()
        return database

    async def shared_database(
        self, schema: str, package: str, *, pool_size: int, idle_transaction_seconds: float | None = None
    ) -> Database:
        """Return a PostgreSQL schema, migrated to the newest version of a package."""
        database = self._host.database(schema, pool_size=pool_size, idle_transaction_seconds=idle_transaction_seconds)
        await database.start(package)
        self.on_stop(database.stop)
        return database

    def require(self, name: str, check: Check) -> None:
        """Make the service ready only while the check of a dependency succeeds; it raises an error if not."""
        self._host.readiness.require(self._service.name, name, check)

    def require_database(self) -> None:
        """Make the service ready only while PostgreSQL answers."""
        self.require(POSTGRES, self._host.check_database)

    def require_service(self, service: str) -> None:
        """Make the service ready only while another service is ready."""
        self.require(service, partial(self._host.check_service, service, self._service.name))

    def audit(self) -> AuditWriter:
        """Return the writer of the service's audit records."""
        return self._host.audit(self._service.name)

    def on_start(self, hook: Hook) -> None:
        """Run the hook once all services of the process listen."""
        self._hooks["start"].append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Run the hook when the process stops; hooks run in reverse order."""
        self._hooks["stop"].insert(0, hook)

    def background(self, task_function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task from start to stop; a task that fails is restarted after a second."""

        async def begin() -> None:
            task = asyncio.create_task(
                self._restart_on_failure(task_function), name=f"{self._service.name}:{task_function.__name__}"
            )
            self._tasks.add(task)

        self.on_start(begin)

    def describe(self, detail: Detail) -> None:
        """Set the function that returns the status detail; an error shows the service as degraded."""
        self._detail = detail

    def on_scrape(self, hook: Hook) -> None:
        """Run the hook before a scrape of the metrics, to update gauges."""
        self._hooks["scrape"].append(hook)

    async def run_scrape_hooks(self) -> None:
        """Run the hooks of `on_scrape`."""
        for hook in self._hooks["scrape"]:
            await hook()

    async def detail(self) -> str:
        """Return the status detail of the service."""
        return await self._detail() if self._detail else ""

    async def run_start_hooks(self) -> None:
        """Run the hooks of `on_start`."""
        for hook in self._hooks["start"]:
            await hook()

    async def close(self) -> None:
        """Cancel the background tasks, then run the hooks of `on_stop`."""
        pending = self._tasks
        while pending:  # repeatedly: an error during cleanup can replace a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        async with AsyncExitStack() as stack:  # runs all hooks, even if one fails
            for hook in reversed(self._hooks["stop"]):
                stack.push_async_callback(hook)

    def check_unknown_settings(self) -> None:
        """Raise `ConfigError` if the section has an unknown setting, often a typo."""
        for key in self._section.keys() - self._read_settings:
            available = ", ".join(sorted(self._read_settings)) or "none"
            raise ConfigError(f"{self._service.name}.{key} is not a setting; there are: {available}")

    async def _restart_on_failure(self, task_function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await task_function()
                return
            except DrwError as error:
                log.warning("%s: %s; again in a second", self._service.name, error.message)
            except Exception:  # a bug must not end a background task for the life of the process
                log.exception("%s failed; again in a second", self._service.name)
            await asyncio.sleep(1)


def validated(cls: type[S], section: dict[str, Any], name: str) -> S:
    """Return the settings of a section.

    Raises:
        ConfigError: it has a key that is not a setting, or a wrong value.
    """
    try:
        return cls.model_validate(section)
    except ValidationError as error:
        raise ConfigError(explain(error, name)) from error


def check_sections(profile: Profile) -> None:
    """Raise if the profile has settings for an unknown service."""
    for name in profile.services.keys() - BY_NAME.keys():
        raise ConfigError(f"there is no service {name!r}; there are: {', '.join(BY_NAME)}")


def _only_subclass(module: ModuleType, port: type[P]) -> Callable[..., P]:
    (subclass,) = (
        c
        for _, c in getmembers(module, isclass)
        if issubclass(c, port) and c.__module__ == module.__name__ and not isabstract(c)
    )
    return subclass
