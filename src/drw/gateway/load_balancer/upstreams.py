"""Upstreams of processes, settings and operators, each with the error message for when it does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.gateway.load_balancer.settings import UpstreamSettings
from drw.kernel.runtime.settings import ServiceAddress

CLIENT_FUNCTIONS = {
    "gateway": "key management",
    "models": "model calls",
    "rag": "documents and search",
    "workflow": "workflows",
}
"""Functions of each process, for error messages to clients."""

DEPENDENCIES = {"rag": ("models",), "workflow": ("models", "rag")}
"""Processes that the functions of a process depend on; an error message lists only functions that are not affected."""


def from_profile(processes: Mapping[str, ServiceAddress], settings: Mapping[str, UpstreamSettings]) -> list[Upstream]:
    """Return the upstreams of processes and settings, sorted by name.

    An upstream of the settings replaces the process of the same name. It has the services of that process, unless it
    names others.
    """
    upstreams = {
        name: UpstreamSettings(addresses=(address.http,), services=address.services)
        for name, address in processes.items()
    }
    grpc = {f"{name}.inference": address.inference for name, address in processes.items() if address.inference}
    upstreams |= {name: UpstreamSettings(addresses=(address,)) for name, address in grpc.items()}
    for name, upstream_settings in settings.items():
        process_services = upstreams[name].services if name in upstreams else ()
        upstreams[name] = upstream_settings.model_copy(
            update={"services": upstream_settings.services or process_services}
        )
    return [
        Upstream(
            name=name,
            addresses=upstream.addresses,
            services=upstream.services,
            when_gone=_unavailable_message(name, upstream.services, sorted(upstreams)),
            origin="settings" if name in settings else "profile",
            http2=name in grpc and name not in settings,
        )
        for name, upstream in sorted(upstreams.items())
    ]


def with_records(fixed: Mapping[str, Upstream], records: Iterable[Upstream]) -> list[Upstream]:
    """Return fixed upstreams and records, sorted by name; a record never replaces a fixed upstream."""
    upstreams = dict(fixed)
    for record in records:
        if record.name not in fixed:
            upstream = Upstream()
            upstream.CopyFrom(record)
            upstream.when_gone = record.when_gone or _unavailable_message(record.name, (), sorted(fixed))
            upstreams[record.name] = upstream
    return [upstream for _, upstream in sorted(upstreams.items())]


def _unavailable_message(name: str, services: tuple[str, ...], names: list[str]) -> str:
    subject = f"the {name} services ({', '.join(services)}) do not" if services else f"{name} does not"
    unaffected = [
        CLIENT_FUNCTIONS[n]
        for n in names
        if n in CLIENT_FUNCTIONS and n != name and name not in DEPENDENCIES.get(n, ())
    ]
    if not unaffected:
        return f"{subject} answer"
    return f"{subject} answer; {_join(unaffected)} are not affected"


def _join(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
