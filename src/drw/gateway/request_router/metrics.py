"""Metrics of data planes: whether they run the desired version."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Gauge

from drw.api.gateway.v1.request_router_pb2 import Configuration, ConfigurationReport

DATA_PLANES = Gauge(
    "drw_data_planes",
    "Data planes that have reported, by the configuration they run. newest: the desired version;"
    " older: an earlier version; refused: the desired version failed.",
    ["configuration"],
)
NEWEST, OLDER, REFUSED = (DATA_PLANES.labels(which) for which in ("newest", "older", "refused"))
COMPLETE = Gauge("drw_configuration_complete", "1: the desired state is complete; 0: a part is missing.")


def measure(configuration: Configuration | None, reports: Iterable[ConfigurationReport]) -> None:
    """Count data planes by the version that they run."""
    reported = list(reports)
    version = configuration.version if configuration else ""
    refused = sum(bool(report.error) for report in reported)
    newest = sum(not report.error and report.version == version for report in reported)
    COMPLETE.set(configuration is not None)
    NEWEST.set(newest)
    REFUSED.set(refused)
    OLDER.set(len(reported) - newest - refused)
