"""Translation of the desired state to Envoy resources: a pure function, with golden files in tests/agent/xds/golden.

Each resource kind is a file in a separate folder, because Envoy reloads a whole folder on any change.
`static_configuration` combines all kinds into one static configuration for validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drw.agent.native_filter import NATIVE_FILTER, ZERO_SEED, filter_config
from drw.agent.xds import clusters, listener, overload, routes, tls
from drw.agent.xds.builders import Json, file_source, private_address, typed
from drw.agent.xds.http_filters import cors, filters, identity
from drw.agent.xds.http_filters.deny_list import BLOCKED, MODELS, deny_list_filter, model_filter
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import ConfigError, DataPlane, Profile, Tls
from drw.routing.request_matching import upstreams_of

FILTER_KINDS = {
    filters.IDENTITY: "identity",
    filters.KEYS: "keys",
    BLOCKED: "blocked",
    MODELS: "models",
    NATIVE_FILTER: "native_filter",
}
KINDS = ("clusters", "routes", "identity", "keys", "blocked", "models", "native_filter", "listeners")
"""Delivery order: referenced kinds first."""

FIRST_KINDS = ("native_filter", "models")
DELAYED_KINDS = ("blocked",)
DENY_LIST_KINDS = (*FIRST_KINDS, *DELAYED_KINDS)
"""Kinds of deny lists and limits, delivered before all others in this order."""

OTHER_KINDS = tuple(kind for kind in KINDS if kind not in DENY_LIST_KINDS)


class BadConfiguration(InvalidRequest):
    """The desired state is inconsistent, or Envoy rejects it."""


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """Data plane options from the profile."""

    plane: DataPlane
    otlp_endpoint: str = ""
    seed: bytes = ZERO_SEED
    """Secret hash seed of subjects, so that callers cannot choose names with colliding hashes."""

    @classmethod
    def of(cls, profile: Profile) -> EdgeOptions:
        """Read the options from the profile.

        Raises:
            ConfigError: the data plane section is missing or invalid.
        """
        if profile.data_plane is None:
            raise ConfigError(f"the profile {profile.name!r} has no table [data_plane]")
        endpoint = profile.otlp_endpoint
        if endpoint and not endpoint.startswith("http://"):
            raise ConfigError(f"otlp_endpoint is {endpoint!r}; the data plane sends traces to a collector at http://")
        return cls(profile.data_plane, endpoint)

    @property
    def log(self) -> str:
        """The access log of verified callers."""
        return str(self.plane.folder / "access.log")

    @property
    def anonymous_log(self) -> str:
        """The access log of all other requests."""
        return str(self.plane.folder / "access-anonymous.log")

    def file(self, kind: str) -> Path:
        """Return the file of a resource kind."""
        return self.plane.folder / "xds" / kind / f"{kind}.json"

    @property
    def secrets(self) -> Path:
        """Folder of the certificate secrets."""
        return self.plane.folder / "tls"

    @property
    def pressure(self) -> Path:
        """File with the connection fill level, from 0 to 1."""
        return self.plane.folder / "pressure" / "connections"

    @property
    def usage(self) -> Path:
        """The usage log of third-party upstreams."""
        return self.plane.folder / "usage.log"

    def secret(self, name: str) -> str:
        """Return the secret file of a credential."""
        return str(self.plane.folder / "xds" / "secrets" / name / "secret.json")

    def source(self, kind: str) -> Json:
        """Return the configuration source of a resource kind."""
        return file_source(str(self.file(kind)))


def translate(configuration: Configuration, edge: EdgeOptions) -> dict[str, list[Json]]:
    """Return the resources of each kind.

    Raises:
        BadConfiguration: a route names an unknown upstream.
    """
    _check_upstreams(configuration)
    resources = {
        name: [_extension_resource(name, message)] for name, message in _dynamic_filters(configuration, edge).items()
    }
    return {
        "clusters": _clusters(configuration, edge),
        "routes": [routes.route_configuration(configuration, edge.plane.cors.origins)],
        **{kind: resources[name] for name, kind in FILTER_KINDS.items()},
        "listeners": _listeners(
            edge,
            {name: _discovery_reference(edge, name) for name in FILTER_KINDS},
            {"rds": routes.reference(edge.source("routes"))},
            partial(tls.sds_socket, folder=str(edge.secrets)),
        ),
    }


def deny_list_resources(
    configuration: Configuration, edge: EdgeOptions, kinds: Sequence[str] = DENY_LIST_KINDS
) -> dict[str, list[Json]]:
    """Return the resources of deny lists and limits."""
    builders: dict[str, Callable[[], tuple[str, Json]]] = {
        "native_filter": lambda: (NATIVE_FILTER, filter_config(configuration, edge.seed)),
        "models": lambda: (MODELS, model_filter(configuration)),
        "blocked": lambda: (BLOCKED, deny_list_filter(configuration)),
    }
    return {kind: [_extension_resource(*build())] for kind, build in builders.items() if kind in kinds}


def without_deny_list(configuration: Configuration) -> Configuration:
    """Return the configuration without version, deny lists and limits, which are delivered separately."""
    remaining = Configuration()
    remaining.CopyFrom(configuration)
    remaining.ClearField("version")
    remaining.ClearField("refusals")
    remaining.ClearField("blocks")
    remaining.ClearField("limits")
    remaining.credentials.ClearField("revoked")
    return remaining


def static_configuration(configuration: Configuration, edge: EdgeOptions) -> Json:
    """Return all resources as one static configuration, for validation.

    Raises:
        BadConfiguration: a route names an unknown upstream.
    """
    _check_upstreams(configuration)
    dynamic_filters = {
        name: {"name": name, "typed_config": message} | _disabled(name)
        for name, message in _dynamic_filters(configuration, edge).items()
    }
    route_config = {"route_config": _untyped(routes.route_configuration(configuration, edge.plane.cors.origins))}
    static = {
        "clusters": [_untyped(cluster) for cluster in _clusters(configuration, edge)],
        "listeners": [
            _untyped(listener_config)
            for listener_config in _listeners(edge, dynamic_filters, route_config, tls.static_socket)
        ],
    }
    return _process_options(edge) | {"static_resources": static}


def bootstrap(edge: EdgeOptions) -> Json:
    """Return Envoy's bootstrap: admin interface, and references to everything else."""
    dynamic = {"cds_config": edge.source("clusters"), "lds_config": edge.source("listeners")}
    return _process_options(edge) | {"dynamic_resources": dynamic}


def _dynamic_filters(configuration: Configuration, edge: EdgeOptions) -> dict[str, Json]:
    return {
        filters.IDENTITY: identity.identity(configuration.credentials),
        filters.KEYS: filters.keys(configuration.credentials),
        BLOCKED: deny_list_filter(configuration),
        MODELS: model_filter(configuration),
        NATIVE_FILTER: filter_config(configuration, edge.seed),
    }


def _extension_resource(name: str, message: Json) -> Json:
    return typed("envoy.config.core.v3.TypedExtensionConfig", name=name, typed_config=message)


def _discovery_reference(edge: EdgeOptions, name: str) -> Json:
    source = edge.source(FILTER_KINDS[name])
    type_url = f"type.googleapis.com/{filters.DISCOVERED[name]}"
    return {"name": name, "config_discovery": {"config_source": source, "type_urls": [type_url]}} | _disabled(name)


def _disabled(name: str) -> Json:
    return {"disabled": True} if name in filters.DISABLED_BY_DEFAULT else {}


def _listeners(
    edge: EdgeOptions, dynamic_filters: Mapping[str, Json], route_config: Json, transport_socket: Callable[[Tls], Json]
) -> list[Json]:
    logs = listener.LogPaths(edge.log, edge.anonymous_log, str(edge.usage))
    build = partial(
        listener.listener,
        logs=logs,
        otlp_endpoint=edge.otlp_endpoint,
        dynamic_filters=dynamic_filters,
        routes=route_config,
        connections=edge.plane.connections,
        first_filters=[cors.cors()] if edge.plane.cors.origins else [],
    )
    listeners = [build(edge.plane.listen)]
    if tls_settings := edge.plane.tls:
        listeners.append(build(tls_settings.listen, transport_socket=transport_socket(tls_settings)))
    if edge.plane.operators:
        listeners.append(build(edge.plane.operators, operators=True))
    return listeners


def _clusters(configuration: Configuration, edge: EdgeOptions) -> list[Json]:
    upstreams, ca_file = configuration.upstreams.upstreams, str(edge.plane.authorities)
    configs = [clusters.cluster(upstream, edge.secret(upstream.credential), ca_file) for upstream in upstreams]
    aggregates = clusters.aggregate_clusters(configuration.routes.routes, upstreams, edge.secret)
    return [
        *configs,
        *aggregates,
        *([clusters.trace_collector(edge.otlp_endpoint)] if edge.otlp_endpoint else []),
    ]


def _check_upstreams(configuration: Configuration) -> None:
    names = sorted(upstream.name for upstream in configuration.upstreams.upstreams)
    for route in configuration.routes.routes:
        for upstream in upstreams_of(route):
            if upstream not in names:
                existing = ", ".join(names) or "none"
                raise BadConfiguration(
                    f"the route {route.name!r} names the upstream {upstream!r}; there are: {existing}"
                )


def _process_options(edge: EdgeOptions) -> Json:
    return {
        "node": {"id": "data-plane", "cluster": "drw"},
        "admin": {"address": private_address(edge.plane.admin), "ignore_global_conn_limit": True},
        "overload_manager": overload.manager(edge.plane.connections.max, str(edge.pressure)),
    }


def _untyped(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if name != "@type"}
