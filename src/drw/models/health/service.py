"""Health of all services and models: reports, error budgets and the history of states."""

from __future__ import annotations

from random import Random

from drw.api.models.v1 import health_rpc as contract
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.health_pb2 import (
    GetReportRequest,
    ListSlosRequest,
    ListSlosResponse,
    ListTransitionsRequest,
    ListTransitionsResponse,
    Report,
)
from drw.api.models.v1.serving_rpc import ServingClient
from drw.catalog import BY_NAME
from drw.kernel import tenancy
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import Profile
from drw.kernel.runtime.status import healthy, report
from drw.models.health.burn_rates import slos
from drw.models.health.history import History
from drw.models.health.model_monitor import ModelMonitor
from drw.models.health.samples import SampleStore
from drw.models.health.settings import Settings
from drw.models.health.status_monitor import StatusMonitor

PAGE_SIZE = 100


class Health(contract.Health):
    """Serves `drw.api.models.v1.Health`."""

    def __init__(
        self,
        profile: Profile,
        channels: Channels,
        history: History,
        samples: SampleStore,
        models: ModelMonitor | None,
    ) -> None:
        self._profile = profile
        self._channels = channels
        self._history = history
        self._samples = samples
        self._models = models

    async def get_report(self, request: GetReportRequest, /) -> Report:
        """Return the present status of each service of the profile, and of each model."""
        services = await report(self._profile, self._channels)
        models = self._models.models() if self._models else []
        if (visible := await self._visible_models()) is not None:
            models = [model for model in models if model.model in visible]
            for service in services:
                service.detail = ""  # can contain issuers, routes and desks of other tenants
            for model in models:
                model.replica = ""  # an address
        return Report(healthy=healthy(services), services=services, models=models)

    async def list_slos(self, request: ListSlosRequest, /) -> ListSlosResponse:
        """Return the objectives of each service with their error budgets."""
        windows = await self._samples.windows()
        listed = [slo for service in BY_NAME.values() for slo in slos(service, windows.get(service.name, {}))]
        if not tenancy.may_read_platform():
            for slo in listed:
                slo.requests = slo.bad = 0  # of all tenants
        return ListSlosResponse(slos=listed)

    async def list_transitions(self, request: ListTransitionsRequest, /) -> ListTransitionsResponse:
        """Return a page of the changes of state, newest first."""
        size = request.page_size or PAGE_SIZE
        transitions, token = await self._history.page(request, size, await self._visible_models())
        return ListTransitionsResponse(transitions=transitions, next_page_token=token)

    async def _visible_models(self) -> set[str] | None:
        """Return the models that the caller may use; None: the caller may read the whole platform."""
        if tenancy.may_read_platform():
            return None
        if self._models is None:
            return set()
        try:
            return await self._models.visible()
        except Unavailable:  # the report must come while discovery is down
            return set()


async def build(scope: ServiceContext) -> Health:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database(required=False)  # the report needs none
    channels, monitor_channels = (
        scope.channels(),
        scope.channels(),
    )  # a failed poll must not delay the connection of a report
    scope.on_stop(channels.close)
    scope.on_stop(monitor_channels.close)
    history, samples = History(database, settings.history), SampleStore(database, settings.history)
    scope.background(StatusMonitor(scope.profile, monitor_channels, history, samples, settings.poll_seconds).run)
    models = None
    if scope.has("serving") and scope.has("discovery"):
        discovery, serving = scope.client(DiscoveryClient), scope.client(ServingClient)
        models = ModelMonitor(discovery, serving, history, settings.probes, Clock(), Random())
        scope.background(models.probe_periodically)
        scope.background(models.follow_replicas)
    return Health(scope.profile, channels, history, samples, models)
