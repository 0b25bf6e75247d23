"""Upstreams of a profile: one for each process, with the error message while it does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.gateway.load_balancer.settings import UpstreamSettings
from drw.kernel.runtime.settings import ServiceAddress

WORK = {
    "gateway": "key management",
    "models": "model calls",
    "rag": "documents and search",
    "workflow": "workflows",
}
"""What stops with a process, in a client's words."""

NEEDS = {"rag": ("models",), "workflow": ("models", "rag")}
"""Which work needs another process to end well, so that nothing is called unaffected that is not."""


def from_profile(processes: Mapping[str, ServiceAddress], settings: Mapping[str, UpstreamSettings]) -> list[Upstream]:
    """Return all upstreams, sorted by name; one of the settings takes the place of a process of its name.

    It then has the services of that process, unless it names others.
    """
    upstreams = {
        name: UpstreamSettings(addresses=(address.http,), services=address.services)
        for name, address in processes.items()
    }
    for name, own in settings.items():
        before = upstreams[name].services if name in upstreams else ()
        upstreams[name] = own.model_copy(update={"services": own.services or before})
    return [
        Upstream(
            name=name,
            addresses=upstream.addresses,
            services=upstream.services,
            when_gone=_when_gone(name, upstream.services, sorted(upstreams)),
            origin="settings" if name in settings else "profile",
        )
        for name, upstream in sorted(upstreams.items())
    ]


def with_records(fixed: Mapping[str, Upstream], records: Iterable[Upstream]) -> list[Upstream]:
    """Return all upstreams, sorted by name; a record never takes the place of a fixed one."""
    upstreams = dict(fixed)
    for record in records:
        if record.name not in fixed:
            upstream = Upstream()
            upstream.CopyFrom(record)
            upstream.when_gone = record.when_gone or _when_gone(record.name, (), sorted(fixed))
            upstreams[record.name] = upstream
    return [upstream for _, upstream in sorted(upstreams.items())]


def _when_gone(name: str, services: tuple[str, ...], names: list[str]) -> str:
    subject = f"the {name} services ({', '.join(services)}) do not" if services else f"{name} does not"
    spared = [WORK[n] for n in names if n in WORK and n != name and name not in NEEDS.get(n, ())]
    if not spared:
        return f"{subject} answer"
    return f"{subject} answer; {_listed(spared)} are not affected"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
