"""The metrics of a host, as Prometheus reads them."""

from __future__ import annotations

import httpx

from drw.kernel.runtime.host import Host


async def scrape(host: Host) -> dict[str, float]:
    """Return every sample by its name with its labels, as in `drw_service_ready{service="log"}`."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host.app()), base_url="http://drw") as client:
        response = await client.get(f"/metrics/{host.name}")
    assert response.status_code == 200
    samples = (line.rpartition(" ") for line in response.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}
