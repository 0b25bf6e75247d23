"""Settings: defaults in the code, the TOML file of the profile, the operator's file, the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from drw.kernel.errors import ConfigError as ConfigError

ORIGIN = r"^(\*|https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?)$"
"""Form of the header `Origin`: no path, lower case (RFC 6454, 6.2)."""
Origin = Annotated[str, StringConstraints(pattern=ORIGIN)]


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"{value!r} is not an address: write it as in 127.0.0.1:8080")
    return value


HostAndPort = Annotated[str, AfterValidator(_host_and_port)]


class Settings(BaseModel):
    """Base class of the settings of a service or an adapter: frozen, rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServiceAddress(Settings):
    """Addresses of one process."""

    services: tuple[str, ...]
    """The services that the process runs."""
    grpc: str
    """Address for calls of other services over gRPC: `unix:/path` or `host:port`."""
    http: str
    """Address for requests of the data plane: `unix:/path` or `host:port`."""
    inference: str = ""
    """Address where serving takes gRPC calls of the Open Inference Protocol from the data plane: `unix:/path` or
    `host:port`. Empty: none."""
    bind: str = ""
    """Interface where the process listens with the ports of its addresses, such as `0.0.0.0`, if the addresses are
    names that others resolve. Empty: the addresses themselves."""
    probes: str = ""
    """`host:port` of an additional listener that answers only probes and scrapes. Empty: none."""

    def listener(self, address: str) -> str:
        """Return where the process listens for requests to one of its addresses."""
        if not self.bind or not address or address.startswith("unix:"):
            return address
        return f"{self.bind}:{address.rpartition(':')[2]}"


class Tls(Settings):
    """TLS listener of the data plane, additional to the plain one."""

    listen: HostAndPort
    """`host:port` of the listener with TLS."""
    certificate: Path
    """The server's certificate chain, as PEM."""
    private_key: Path
    """The key of the certificate, as PEM."""
    client_ca: Path | None = None
    """Certificate authorities of client certificates, as PEM. Without it, no client certificate is requested."""


class Connections(Settings):
    """Bounds on the connections of clients to the data plane."""

    max: int = Field(default=10_000, ge=10, le=1_000_000)
    """Maximum open connections of all clients. Further connections are closed immediately."""
    per_client: int = Field(default=5_000, ge=1, le=1_000_000)
    """Maximum open connections of one client: an IPv4 address, or a /64 of IPv6. Behind a load balancer that hides its
    clients, set it to `max`."""
    idle_seconds: int = Field(default=60, ge=5, le=3600)
    """Maximum time that a connection stays open without a request. It falls to one second as the data plane fills up.

    Clients, and load balancers in front of the data plane, should close their idle connections earlier.
    """
    operators: int = Field(default=100, ge=1, le=100_000)
    """Maximum open connections at the listener for operators, in addition to `max`."""


class Cors(Settings):
    """Web origins that can call the platform from a browser: `[data_plane.cors]`."""

    origins: tuple[Origin, ...] = ()
    """Permitted origins, such as `https://desk.example`, or `*` for every page. Requests still need an API key."""


class DataPlane(Settings):
    """Listeners of the data plane, and the files of its agent."""

    listen: HostAndPort = "127.0.0.1:8080"
    """`host:port` of the plain listener."""
    tls: Tls | None = None
    folder: Path
    """Folder of Envoy's configuration, its last valid configuration, and its access log."""
    operators: str = ""
    """`unix:/path` or `host:port` of an additional listener for operators. It answers when clients have used up all
    connections, and checks keys and scopes like the others. Empty: none."""
    connections: Connections = Connections()
    cors: Cors = Cors()
    admin: str
    """`unix:/path` or `host:port` of Envoy's admin interface."""
    metrics: str = ""
    """`unix:/path` or `host:port` where the agent serves its own and Envoy's metrics. Empty: nowhere."""
    authorities: Path = Path("/etc/ssl/certs/ca-certificates.crt")
    """Certificate authorities for TLS upstreams, as PEM."""


class Engine(Settings):
    """The language model's process on one machine: `[engine]`."""

    memory_mib: int = Field(default=2048, ge=512)
    """Memory limit of the engine, without the memory-mapped weights; above it, the engine restarts."""


class ValkeyBus(Settings):
    """Event bus in Valkey: `[bus.valkey]`."""

    max_events: int = Field(default=50_000, ge=1_000, le=10_000_000)
    """Maximum events in the stream. If a consumer is this far behind, further events wait in PostgreSQL."""


class KafkaBus(Settings):
    """Event bus in Kafka: `[bus.kafka]`."""

    bootstrap: str = ""
    """`host:port` of one or more brokers, separated by commas."""
    topic: str = "drw.events"
    """The topic. If it does not exist, it is created with the default configuration of the brokers."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Protocol of the connections to the brokers."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """SASL mechanism, for the protocols with SASL."""
    username: str = ""
    """SASL user."""
    password: str = ""
    """SASL password."""
    ca: Path | None = None
    """Certificate authorities of the brokers, as PEM."""


class PubSubBus(Settings):
    """Event bus in Google Cloud Pub/Sub: `[bus.pubsub]`."""

    project: str = ""
    """The Google Cloud project."""
    topic: str = "drw-events"
    """The topic. Topic and subscriptions are created if they do not exist."""
    emulator: str = ""
    """`host:port` of an emulator, without TLS and credentials. Empty: the service of Google Cloud."""


class Bus(Settings):
    """The event bus: `[bus]`."""

    adapter: Literal["valkey", "kafka", "pubsub"] = "valkey"
    """The broker."""
    valkey: ValkeyBus = ValkeyBus()
    kafka: KafkaBus = KafkaBus()
    pubsub: PubSubBus = PubSubBus()
    replay_seconds: int = Field(default=3600, ge=60, le=7 * 24 * 3600)
    """How long PostgreSQL keeps published events, to publish them again if Valkey loses its data."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.adapter == "kafka" and not self.kafka.bootstrap:
            raise ValueError("bus.kafka.bootstrap is missing: set it to the address of a broker, as in 127.0.0.1:9092")
        if self.adapter == "pubsub" and not self.pubsub.project:
            raise ValueError("bus.pubsub.project is missing: set it to the Google Cloud project")
        return self


class WorkflowSecret(Settings):
    """A secret that templates can name: `[[workflow.secrets]]`. Its value is in a file or an environment variable."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """Its name, as in `${secrets.NAME}`."""
    org: str = Field(min_length=1)
    """The org whose runs can use it."""
    desk: str = ""
    """The desk whose runs can use it; it wins over a secret of the org. Empty: all desks of the org."""
    file: Path | None = None
    """The file with its value. It is read for each attempt at a step, so that a rotated value is used at once."""
    variable: str = ""
    """The environment variable with its value, if there is no file."""
    hosts: tuple[str, ...] = ()
    """Entries of `workflow.http_hosts` to which `http` nodes can send it. Empty: only `python` nodes can use it."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.file is None) == (not self.variable):
            raise ValueError(f"the secret {self.name!r} needs either 'file' or 'variable'")
        return self


class WorkflowEvent(Settings):
    """An event that `event` nodes can publish: `[workflow.events.NAME]`."""

    data_schema: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema of its data. Empty: any object."""


class Workflow(Settings):
    """What nodes of workflow templates can reach outside of the platform: `[workflow]`."""

    http_hosts: tuple[str, ...] = ()
    """Hosts that `http` nodes can call: `HOST` or `HOST:PORT` for HTTPS, `http://HOST:PORT` for HTTP. Empty: none."""
    http_networks: tuple[str, ...] = ()
    """Networks that are not public, and that names in `workflow.http_hosts` can resolve to, such as `10.20.0.0/16`."""
    http_max_response_bytes: int = Field(default=48 * 1024, ge=1, le=48 * 1024)
    """Maximum size of a response to an `http` node."""
    events: dict[str, WorkflowEvent] = Field(default_factory=dict)
    """Events that `event` nodes can publish, by name."""
    secrets: tuple[WorkflowSecret, ...] = ()
    """Secrets that templates can name."""


class MutualTls(Settings):
    """Mutual TLS between processes: `[mtls]`."""

    folder: Path
    """Folder with one folder per identity, each with the files `tls.crt`, `tls.key` and `ca.crt`."""
    trust_domain: str = Field(default="drw.internal", pattern=r"^[a-z0-9][a-z0-9.-]{0,252}$")
    """Trust domain of the SPIFFE ids, and domain of the DNS names, in the certificates."""
    namespace: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Namespace of the SPIFFE ids."""


class Profile(Settings):
    """A deployment profile: processes and their services, and the settings of each service."""

    name: str
    """The name of the profile, such as `laptop`."""
    data: Path
    """Data folder; each service has a subfolder of its name."""
    postgres: str
    """A PostgreSQL connection string."""
    valkey: str
    """A Valkey URL."""
    migrations: Literal["apply", "await"] = "apply"
    """`apply`: each process applies the migrations of its services at its start. `await`: it waits until `drw migrate`
    has applied them."""
    processes: dict[str, ServiceAddress] = Field(default_factory=dict)
    data_plane: DataPlane | None = None
    services: dict[str, dict[str, Any]] = Field(default_factory=dict)
    engine: Engine = Engine()
    bus: Bus = Bus()
    workflow: Workflow = Workflow()
    mtls: MutualTls | None = None
    """Mutual TLS between processes. Null: calls between processes are plain, and callers are not proven."""
    starts: Path | None = None
    """File in which the supervisor stores how long each process took to start, in seconds. Null: none."""
    drain_seconds: float = Field(default=10.0, ge=0, le=3600)
    """Maximum time for requests in flight when a process stops."""
    otlp_endpoint: str = ""
    """Address of the OpenTelemetry collector, such as `http://127.0.0.1:4318`. Empty: spans are not recorded."""

    def http_addresses(self) -> dict[str, ServiceAddress]:
        """Return the HTTP upstreams of the data plane: all processes, and the metrics of the agent."""
        if self.data_plane is None or not self.data_plane.metrics:
            return self.processes
        return {**self.processes, "agent": ServiceAddress(services=(), grpc="", http=self.data_plane.metrics)}

    def inference_address(self) -> str:
        """Return where serving listens for gRPC calls of the Open Inference Protocol; empty: nowhere."""
        addresses = (address.listener(address.inference) for address in self.processes.values())
        return next((address for address in addresses if address), "")

    def address_of(self, service: str) -> ServiceAddress:
        """Return the addresses of the process that runs a service."""
        for address in self.processes.values():
            if service in address.services:
                return address
        raise ConfigError(f"no process of the profile {self.name!r} has the service {service!r}")


class SettingLayers:
    """Layered settings that record the origin of each value."""

    def __init__(
        self,
        files: Iterable[Path],
        environ: Mapping[str, str] = os.environ,
        base: tuple[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Read the files in order; later layers override earlier ones. `base` is a lowest layer with its origin."""
        self.origins: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        if base:
            self._merge(self.data, base[1], base[0], "")
        for file in files:
            self._merge(self.data, _read_toml(file), str(file), "")
        for key, value in sorted(environ.items()):
            if key.startswith("DRW__"):
                self._set_from_environment(key, value)

    def profile(self) -> Profile:
        """Return the profile.

        Raises:
            ConfigError: a value is missing or wrong, or a setting does not exist.
        """
        try:
            return Profile.model_validate(self.data)
        except ValidationError as error:
            raise ConfigError(explain(error, "the profile", self.origins)) from error

    def _merge(self, target: dict[str, Any], source: Mapping[str, Any], origin: str, prefix: str) -> None:
        for key, value in source.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict):
                if not isinstance(target.get(key), dict):
                    target[key] = {}  # a table replaces a value, just as a value replaces a table
                self._merge(target[key], value, origin, f"{path}.")
            else:
                target[key] = value
                self.origins[path] = origin

    def _set_from_environment(self, variable: str, value: str) -> None:
        parts = variable.removeprefix("DRW__").lower().split("__")
        if parts[0] not in Profile.model_fields:
            parts.insert(0, "services")
        nested: dict[str, Any] = {parts[-1]: value}
        for part in reversed(parts[:-1]):
            nested = {part: nested}
        self._merge(self.data, nested, f"${variable}", "")


def explain(error: ValidationError, subject: str, origins: Mapping[str, str] | None = None) -> str:
    """Return a pydantic error as a sentence with each setting, the problem and its origin."""
    parts = []
    for problem in error.errors():
        path = ".".join(str(p) for p in problem["loc"])
        origin = (origins or {}).get(path)
        parts.append(f"{path}: {problem['msg']}" + (f" (from {origin})" if origin else ""))
    return f"{subject}: {'; '.join(parts)}"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {str(file)!r}") from error
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(file)!r} is not TOML: {error}") from error
