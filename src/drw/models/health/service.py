"""Health report of all services of the platform."""

from __future__ import annotations

from drw.api.models.v1 import health_rpc as contract
from drw.api.models.v1.health_pb2 import GetReportRequest, Report
from drw.kernel import tenancy
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import Profile
from drw.kernel.runtime.status import healthy, report


class Health(contract.Health):
    """Serves `drw.api.models.v1.Health` with the status of each process."""

    def __init__(self, profile: Profile, channels: Channels) -> None:
        self._profile = profile
        self._channels = channels

    async def get_report(self, request: GetReportRequest, /) -> Report:
        """Return the present status of each service of the profile."""
        services = await report(self._profile, self._channels)
        if not tenancy.may_read_platform():
            for service in services:
                service.detail = ""  # can contain issuers, routes and desks of other tenants
        return Report(healthy=healthy(services), services=services)


async def build(scope: ServiceContext) -> Health:
    """Build the service from its settings."""
    channels = Channels()
    scope.on_stop(channels.close)
    return Health(scope.profile, channels)
