"""Host: builds the services of one process, injects their dependencies, starts and stops them."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from inspect import getmembers, isabstract, isclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from prometheus_client import Gauge
from pydantic import ValidationError
from starlette.routing import BaseRoute

from drw.api.contract import Client, Servicer, Transport
from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest, ProcessStatus, ServiceStatus
from drw.api.kernel.v1.kernel_rpc import Process
from drw.catalog import BY_NAME, Service
from drw.kernel.errors import DrwError
from drw.kernel.observability import telemetry
from drw.kernel.rpc import http_server, rest, transport
from drw.kernel.runtime.settings import ConfigError, Profile, Settings, explain
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database

log = logging.getLogger(__name__)

CANCEL_SECONDS = 1.0
"""Interval for logging background tasks that do not end."""

C = TypeVar("C", bound=Client)
P = TypeVar("P")
S = TypeVar("S", bound=Settings)

MEASURE_SECONDS = 2.0
READY = Gauge("drw_service_ready", "1: the service does all it should; 0: `drw status` says why not.", ["service"])

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
        wrap: Callable[[Transport], Transport] = lambda plain: plain,
    ) -> None:
        self.profile = profile
        self.name = name
        self._names = tuple(services if services is not None else profile.processes[name].services)
        self._wrap = wrap
        self._servicers: dict[str, Servicer] = {}
        self._scopes: dict[str, ServiceContext] = {}
        self._states: dict[str, State] = dict.fromkeys(self._names, State.STARTING)
        self._channels = transport.Channels()
        self._audit_database = Database(profile.postgres, "audit", pool_size=2)
        self._server: transport.Server | None = None
        self._http: http_server.HttpServer | None = None
        check_sections(profile)

    async def start(self, grpc: str | None = None, http_address: str | None = None) -> tuple[str, str]:
        """Build and start all services, then listen; return the gRPC and the HTTP address."""
        await self._audit_database.start("drw.kernel.storage")
        for name in self._names:
            await self._build(name)
        address = self.profile.processes.get(self.name)
        grpc = grpc or (address.grpc if address else "127.0.0.1:0")
        http_address = http_address or (address.http if address else "127.0.0.1:0")
        self._server = transport.Server([*self._servicers.values(), Status(self)])
        self._http = http_server.HttpServer(self.app())
        bound = await self._server.start(grpc), await self._http.start(http_address)
        for name in self._names:
            await self._scopes[name].begin()
            self._states[name] = State.READY if self._servicers[name].written() else State.UNIMPLEMENTED
        log.info("ready", extra={"fields": {"services": list(self._names), "grpc": bound[0], "http": bound[1]}})
        return bound

    async def stop(self, grace: float = 10.0) -> None:
        """Take no more requests, end those under way within `grace` seconds, stop the services in reverse order."""
        async with AsyncExitStack() as stack:  # from the last to the first, all of them, even where one fails
            stack.push_async_callback(self._audit_database.stop)
            stack.push_async_callback(self._channels.close)
            for scope in self._scopes.values():
                stack.push_async_callback(scope.close)
            if self._server:
                stack.push_async_callback(self._server.stop, grace)
            if self._http:
                stack.push_async_callback(self._http.stop, grace)

    def app(self) -> Any:
        """Return the ASGI application of the process: every service's REST and hand-written routes."""
        resources = [route for servicer in self._servicers.values() for route in rest.routes(servicer)]
        # "/runs/{run}:watch" before "/runs/{run}", which would take "x:watch" for the name of a run.
        resources.sort(key=lambda route: "}:" not in route.path)
        by_hand = [route for scope in self._scopes.values() for route in scope.routes]
        return http_server.app([*by_hand, *resources], self.name, self._measure)

    def client(self, cls: type[C], calling: str = transport.OPERATOR) -> C:
        """Return a client of a service: in this process where it is built here."""
        name = cls.contract.service
        if name in self._names:
            return cls(self._wrap(transport.LocalTransport(lambda: self._servicers[name], name)))
        return self._channels.client(cls, self.profile.place(name).grpc, calling)

    def has(self, service: str) -> bool:
        """Tell whether the service is built here or has a place in the profile."""
        return service in self._names or any(service in address.services for address in self.profile.processes.values())

    def audit(self, service: str) -> AuditWriter:
        """Return the writer of a service's audit records."""
        return AuditWriter(self._audit_database, service)

    async def status(self) -> ProcessStatus:
        """Return how each service of the process is."""
        return ProcessStatus(name=self.name, services=[await self._status_of(name) for name in self._names])

    async def _measure(self) -> bytes:
        """Update the gauges within the scrape timeout; slower updates finish later."""
        await asyncio.gather(*(self._measure_one(name) for name in self._names))
        return b""

    async def _measure_one(self, name: str) -> None:
        ready = False
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                await self._scopes[name].measured()
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
        row = BY_NAME[name]
        module = importlib.import_module(f"{row.package}.service")
        scope = ServiceContext(self, row)
        self._scopes[name] = scope
        self._servicers[name] = await module.build(scope)
        scope.check_all_read()


class Status(Process):
    """Serves `drw.api.kernel.v1.Process`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def get_status(self, request: GetStatusRequest, /) -> ProcessStatus:
        """Return how each service of this process is."""
        return await self._host.status()


class ServiceContext:
    """What one service sees of its host while it is built."""

    def __init__(self, host: Host, row: Service) -> None:
        self._host = host
        self._row = row
        self._section = host.profile.services.get(row.name, {})
        self._read: set[str] = set()
        self._hooks: dict[str, list[Hook]] = {"start": [], "stop": [], "measure": []}
        self._detail: Detail | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: list[BaseRoute] = []
        """Hand-written HTTP routes of the service."""

    @property
    def profile(self) -> Profile:
        """The profile of the process."""
        return self._host.profile

    @property
    def folder(self) -> Path:
        """A folder of the service's own, for files."""
        path = self._host.profile.data / self._row.name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def settings(self, cls: type[S]) -> S:
        """Return the service's own settings."""
        self._read |= cls.model_fields.keys()
        section = {k: v for k, v in self._section.items() if k in cls.model_fields}
        return validated(cls, section, self._row.name)

    def has(self, service: str) -> bool:
        """Tell whether the profile, or this process, has the service at all."""
        return self._host.has(service)

    def client(self, cls: type[C]) -> C:
        """Return a client of another service, which the catalog must list under `calls`."""
        name = cls.contract.service
        if name not in self._row.calls:
            raise ConfigError(f"{self._row.name!r} calls {name!r}, which its row in the catalog does not say")
        return self._host.client(cls, self._row.name)

    def adapter(self, port: type[P], default: str | None = None) -> P:
        """Return the adapter of a port that the settings name; without such a setting, the default.

        The setting is the last word of the port's name, its value a module in the service's `adapters`,
        and the module's own settings stand in a table of its name: for the port `TextEncoder`,
        `encoder = "onnx"` takes adapters/onnx.py with the settings in `[services.embedding.onnx]`.
        """
        key = re.findall("[A-Z][a-z0-9]*", port.__name__)[-1].lower()
        choice = self._section.get(key, default)
        names = self.adapters()
        self._read |= {key, *names}
        if choice not in names:
            raise ConfigError(f"{self._row.name}.{key} is {choice!r}; it can be: {', '.join(names)}")
        return self.make_adapter(port, choice, self._section.get(choice, {}))

    def adapters(self) -> list[str]:
        """Return the names of the service's adapters."""
        package = importlib.import_module(f"{self._row.package}.adapters")
        return [m.name for m in pkgutil.iter_modules(package.__path__)]

    def make_adapter(self, port: type[P], name: str, section: dict[str, Any]) -> P:
        """Return the adapter of a port in the module `name`, with these settings."""
        module = importlib.import_module(f"{self._row.package}.adapters.{name}")
        adapter = _only_subclass(module, port)
        if settings := getattr(adapter, "Settings", None):
            return adapter(validated(settings, section, f"{self._row.name}.{name}"))
        return adapter()

    async def database(self, *, pool_size: int = 4) -> Database:
        """Return the service's own schema in PostgreSQL, brought up to date."""
        database = Database(self._host.profile.postgres, self._row.name, pool_size=pool_size)
        await database.start(self._row.package)
        self.on_stop(database.stop)
        return database

    def audit(self) -> AuditWriter:
        """Return the writer of the service's audit records."""
        return self._host.audit(self._row.name)

    def on_start(self, hook: Hook) -> None:
        """Run this once all services of the process listen."""
        self._hooks["start"].append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Run this when the process stops; the last one given runs first."""
        self._hooks["stop"].insert(0, hook)

    def background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep this running from start to stop; it is begun again a second after it fails."""

        async def begin() -> None:
            task = asyncio.create_task(self._keep(work), name=f"{self._row.name}:{work.__name__}")
            self._tasks.add(task)

        self.on_start(begin)

    def describe(self, detail: Detail) -> None:
        """Set the function that returns the status detail; an error shows the service as degraded."""
        self._detail = detail

    def measure(self, hook: Hook) -> None:
        """Run this before metrics are read, to update gauges."""
        self._hooks["measure"].append(hook)

    async def measured(self) -> None:
        """Run the hooks of `measure`."""
        for hook in self._hooks["measure"]:
            await hook()

    async def detail(self) -> str:
        """Return the status detail of the service."""
        return await self._detail() if self._detail else ""

    async def begin(self) -> None:
        """Run the hooks of `on_start`."""
        for hook in self._hooks["start"]:
            await hook()

    async def close(self) -> None:
        """Cancel the background tasks, then run the hooks of `on_stop`."""
        waiting = self._tasks
        while waiting:  # more than once: an error on the way out can take the place of a cancellation
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=CANCEL_SECONDS)
        async with AsyncExitStack() as stack:  # which runs all of them, even where one fails
            for hook in reversed(self._hooks["stop"]):
                stack.push_async_callback(hook)

    def check_all_read(self) -> None:
        """Raise if the section has an unknown key, most often a typo."""
        for key in self._section.keys() - self._read:
            known = ", ".join(sorted(self._read)) or "none"
            raise ConfigError(f"{self._row.name}.{key} is not a setting; there are: {known}")

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
                return
            except DrwError as error:
                log.warning("%s: %s; again in a second", self._row.name, error.message)
            except Exception:
                log.exception("%s failed; again in a second", self._row.name)
            await asyncio.sleep(1)


def validated(cls: type[S], section: dict[str, Any], what: str) -> S:
    """Return the settings of a section.

    Raises:
        ConfigError: it has a key that is not a setting, or a wrong value.
    """
    try:
        return cls.model_validate(section)
    except ValidationError as error:
        raise ConfigError(explain(error, what)) from error


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
