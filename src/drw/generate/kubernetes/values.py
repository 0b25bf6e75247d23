"""The values of the Helm chart: their types, defaults and descriptions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from drw.catalog import AGENT_CALLS, BY_NAME, OWNERS, PLACEMENTS, Service

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Cidr = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
ServiceName = Annotated[str, Field(json_schema_extra={"enum": list(BY_NAME)})]
Strings = dict[str, str]

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


class Section(BaseModel):
    """A section of the values; refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SecretKey(Section):
    """A key of an existing Secret. The chart never creates, reads or changes a Secret."""

    name: Name
    """The Secret."""
    key: str = Field(min_length=1)
    """The key in it."""


class SecretVariable(Section):
    """An environment variable from an existing Secret."""

    variable: Variable
    """Such as the `api_key_variable` of a model, or `DRW__...` for a setting."""
    secret: SecretKey
    """The value."""


class Toleration(Section):
    """A toleration of a pod."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class Image(Section):
    """The image of the platform, with all services, Envoy and its agent."""

    repository: str = "registry.example/drw"
    """Repository without tag."""
    tag: str = ""
    """Tag; ignored if there is a digest."""
    digest: str = Field("", pattern="^(sha256:[0-9a-f]{64})?$")
    """Digest. Set it in production: it names exactly one image. Digest or tag is required."""
    pullPolicy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pullSecrets: tuple[Name, ...] = ()
    """Names of image pull Secrets."""


class Endpoint(Section):
    """Network addresses that pods may connect to."""

    cidrs: tuple[Cidr, ...] = PRIVATE
    """Address ranges."""
    ports: tuple[Port, ...]
    """TCP ports."""


class Postgres(Section):
    """PostgreSQL with pgvector, such as Cloud SQL."""

    secret: SecretKey = SecretKey(name="drw-postgres", key="dsn")
    """Connection string of libpq."""
    network: Endpoint = Endpoint(ports=(5432,))


class Valkey(Section):
    """Valkey, such as Memorystore."""

    secret: SecretKey = SecretKey(name="drw-valkey", key="url")
    """URL, such as `rediss://:PASSWORD@10.0.0.3:6379`."""
    network: Endpoint = Endpoint(ports=(6379,))


class Kafka(Section):
    """Kafka, if `bus.adapter` is `kafka`."""

    bootstrap: str = ""
    """`host:port` of one or more brokers, separated by commas."""
    topic: str = "drw.events"
    securityProtocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_SSL"
    saslMechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretKey = SecretKey(name="drw-kafka", key="password")
    """SASL password; read if there is a username."""
    network: Endpoint = Endpoint(ports=(9092, 9093))


class PubSub(Section):
    """Google Cloud Pub/Sub, if `bus.adapter` is `pubsub`. The events service needs workload identity for it."""

    project: str = ""
    topic: str = "drw-events"


class Bus(Section):
    """The event bus."""

    adapter: Literal["valkey", "kafka", "pubsub"] = "valkey"
    kafka: Kafka = Kafka()
    pubsub: PubSub = PubSub()


class Authentication(Section):
    """The secret that encrypts the signing keys of API keys. Keep it: without it, all keys are lost."""

    secret: SecretKey = SecretKey(name="drw-authentication", key="secret")


class Migrations(Section):
    """The Job that applies the database migrations of each image. Pods wait for it."""

    enabled: bool = True
    """false: run `drw migrate` yourself before an upgrade."""
    backoffLimit: int = Field(6, ge=0, le=100)
    activeDeadlineSeconds: int = Field(1800, ge=60)


class WorkloadIdentity(Section):
    """Workload identity of GKE."""

    project: str = ""
    """Google Cloud project of the service accounts `RELEASE-SERVICE@PROJECT.iam.gserviceaccount.com`; empty: none."""


class Weights(Section):
    """The weights of the embedding model, which are not in the image."""

    claim: str = ""
    """PersistentVolumeClaim with the folder `all-minilm-l6-v2`, mounted read-only; empty: the image has it."""
    path: str = Field("/opt/drw/models", pattern="^/")
    """Folder of the weights in the container."""


class Autoscaling(Section):
    """HorizontalPodAutoscalers of services with `maxReplicas`."""

    cpuPercent: int = Field(70, ge=10, le=100)
    """Target of the CPU in use, in percent of the requested CPU."""
    scaleDownSeconds: int = Field(300, ge=0, le=3600)
    """Time for which the load must be lower before replicas are removed."""


class Requests(Section):
    """Requested resources."""

    cpu: Quantity = "100m"
    memory: Quantity = "256Mi"


class Limits(Section):
    """Limits of resources. There is none of CPU, since it would delay requests while CPU is idle."""

    memory: Quantity = "512Mi"


class Resources(Section):
    """Resources of a container."""

    requests: Requests = Requests()
    limits: Limits = Limits()


class Volume(Section):
    """Persistent volume of the data folder. `helm uninstall` keeps it."""

    size: str = Field("", pattern="^([0-9]+(Mi|Gi|Ti))?$")
    """Size; empty: no volume, the folder holds only caches."""
    accessMode: Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"] = "ReadWriteOnce"
    """ReadWriteMany, such as Filestore, permits several replicas."""
    storageClass: str = ""
    """Empty: the default class of the cluster."""
    existingClaim: str = ""
    """A PersistentVolumeClaim to use instead of a new one."""


class Slo(Section):
    """Service level objective, shown as annotations; the alert rules have it too."""

    availability: float = Field(gt=0, lt=1)
    latencyMs: int = Field(ge=1)
    latencyQuantile: float = Field(gt=0, lt=1)


class ServiceValues(Section):
    """One service of the catalog."""

    owner: str
    """Team that owns the service."""
    replicas: int = Field(ge=1, le=100)
    """Replicas, or their minimum with `maxReplicas`."""
    maxReplicas: int = Field(0, ge=0, le=500)
    """Above `replicas`: a HorizontalPodAutoscaler adds replicas up to it."""
    resources: Resources = Resources()
    gpu: int = Field(0, ge=0, le=16)
    """GPUs of each replica."""
    volume: Volume = Volume()
    drainSeconds: int = Field(10, ge=0, le=3600)
    """Maximum time for requests in flight when a pod stops."""
    slo: Slo
    calls: tuple[ServiceName, ...] = ()
    """Services that it may call: NetworkPolicies permit nothing else."""
    valkey: bool = False
    """Connects to Valkey."""
    bus: bool = False
    """Connects to the event bus."""
    internet: bool = False
    """Calls hosts outside the cluster, and engines."""
    readsStatus: bool = False
    """Reads the status of all services."""
    secretVariables: tuple[SecretVariable, ...] = ()
    """Further settings from Secrets."""
    serviceAccountAnnotations: Strings = {}
    """Annotations of the ServiceAccount, in addition to that of workload identity."""
    nodeSelector: Strings = {}
    """Labels of the nodes that can run the pods."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations of the pods."""


class DataPlane(Section):
    """Envoy with its agent."""

    replicas: int = Field(2, ge=2, le=100)
    maxReplicas: int = Field(10, ge=0, le=500)
    envoy: Resources = Resources(
        requests=Requests(cpu="500m", memory="256Mi"),
        limits=Limits(memory="1Gi"),
    )
    agent: Resources = Resources()
    calls: tuple[ServiceName, ...] = AGENT_CALLS
    """Services that the agent may call, from the catalog."""
    announceSeconds: int = Field(10, ge=0, le=600)
    """Time in which load balancers learn that a pod stops. It serves new requests meanwhile."""
    drainSeconds: int = Field(540, ge=0, le=3600)
    """Maximum time for requests in flight when a pod stops."""
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    serviceAnnotations: Strings = {}
    serviceAccountAnnotations: Strings = {}
    """Annotations of the ServiceAccount, in addition to that of workload identity."""
    nodeSelector: Strings = {}
    """Labels of the nodes that can run the pods."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations of the pods."""


class Gateway(Section):
    """Routes of the Gateway API to the data plane."""

    enabled: bool = True
    name: str = "drw"
    """The Gateway."""
    namespace: str = ""
    """Its namespace; empty: that of the release."""
    sectionName: str = ""
    """Its listener; empty: all."""
    hostnames: tuple[Name, ...] = ()
    requestTimeout: str = Field("0s", pattern="^[0-9]+(ms|s|m|h)$")
    """Maximum time of a request. `0s`: none, since the data plane has its own limits."""
    create: bool = False
    """Create the Gateway with one HTTPS listener."""
    className: str = "gke-l7-regional-external-managed"
    """Class of the created Gateway."""
    certificate: str = ""
    """TLS Secret of the created Gateway."""
    googlePolicies: bool = False
    """Add GKE's HealthCheckPolicy and GCPBackendPolicy: health checks, time limit and drain of the load balancer."""


class NetworkPolicies(Section):
    """Default deny, opened along the `calls` of the services."""

    enabled: bool = True
    clientNamespaces: tuple[Name, ...] = ()
    """Namespaces whose pods may call the data plane."""
    clientCidrs: tuple[Cidr, ...] = ("35.191.0.0/16", "130.211.0.0/22", *PRIVATE)
    """Addresses that may call the data plane: those of Google's load balancers, and private ones."""
    monitoringNamespaces: tuple[Name, ...] = ("gmp-system", "monitoring")
    """Namespaces whose pods may read metrics."""
    dnsCidrs: tuple[Cidr, ...] = ()
    """Further DNS servers besides the pods of kube-system, such as 169.254.20.10/32 for NodeLocal DNSCache."""
    internetCidrs: tuple[Cidr, ...] = ("0.0.0.0/0",)
    """Addresses outside the cluster for models and identity providers."""
    internetExcept: tuple[Cidr, ...] = (*PRIVATE, "169.254.0.0/16", "100.64.0.0/10")
    """Addresses of these ranges that stay closed."""
    internetPorts: tuple[Port, ...] = (443,)


class Tracing(Section):
    """OpenTelemetry."""

    endpoint: str = Field("", pattern="^(https?://[^/]+)?$")
    """Address of the collector, such as `http://collector.monitoring:4318`; empty: no spans."""
    namespace: str = ""
    """Namespace of the collector, for the NetworkPolicies."""


class Monitoring(Section):
    """Scrapes and alert rules."""

    kind: Literal["none", "prometheus-operator", "google"] = "prometheus-operator"
    """prometheus-operator: ServiceMonitor and PrometheusRule; google: PodMonitoring and Rules."""
    interval: str = Field("15s", pattern="^[0-9]+(s|m)$")
    labels: Strings = {}
    """Labels by which the Prometheus selects its objects."""


class Engine(Section):
    """A model server with OpenAI's API, at `http://RELEASE-engine-NAME:8000`."""

    image: str = Field(min_length=1)
    """Image of the server, with its digest."""
    args: tuple[str, ...] = ()
    port: Port = 8000
    healthPath: str = Field("/health", pattern="^/")
    replicas: int = Field(1, ge=0, le=100)
    resources: Resources = Resources(requests=Requests(cpu="4", memory="16Gi"), limits=Limits(memory="32Gi"))
    gpu: int = Field(1, ge=0, le=16)
    computeClass: str = ""
    """ComputeClass of GKE, which provides the nodes with GPUs."""
    weightsClaim: str = ""
    """PersistentVolumeClaim with the weights, mounted read-only at /models."""
    drainSeconds: int = Field(300, ge=0, le=3600)
    nodeSelector: Strings = {}
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu", effect="NoSchedule"),)


def service_values(service: Service) -> ServiceValues:
    """Return the values of a service from the catalog."""
    placement, objective = PLACEMENTS[service.name], service.objective
    return ServiceValues(
        owner=OWNERS[service.cluster],
        replicas=placement.replicas,
        maxReplicas=placement.max_replicas,
        resources=Resources(
            requests=Requests(cpu=placement.cpu, memory=placement.memory), limits=Limits(memory=placement.memory_limit)
        ),
        gpu=placement.gpu,
        volume=Volume(size=placement.volume),
        drainSeconds=placement.drain_seconds,
        slo=Slo(
            availability=objective.availability,
            latencyMs=objective.latency_ms,
            latencyQuantile=objective.latency_quantile,
        ),
        calls=service.calls,
        valkey=placement.valkey,
        bus=placement.bus,
        internet=placement.internet,
        readsStatus=placement.reads_status,
    )


_SERVICES = {service.name: (ServiceValues, service_values(service)) for service in BY_NAME.values()}
Services = create_model("Services", __base__=Section, __doc__="All services.", **_SERVICES)  # type: ignore[call-overload]


class Values(Section):
    """All values of the chart."""

    image: Image = Image()
    fullnameOverride: str = Field("", pattern="^([a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?)?$")
    """Prefix of all names; empty: the name of the release."""
    clusterDomain: str = "cluster.local"
    postgres: Postgres = Postgres()
    valkey: Valkey = Valkey()
    bus: Bus = Bus()
    authentication: Authentication = Authentication()
    settings: str = ""
    """Further settings as TOML, as in `drw.toml`: models, aliases, upstreams. No secrets."""
    migrations: Migrations = Migrations()
    workloadIdentity: WorkloadIdentity = WorkloadIdentity()
    weights: Weights = Weights()
    autoscaling: Autoscaling = Autoscaling()
    dataPlane: DataPlane = DataPlane()
    gateway: Gateway = Gateway()
    networkPolicies: NetworkPolicies = NetworkPolicies()
    tracing: Tracing = Tracing()
    monitoring: Monitoring = Monitoring()
    priorityClass: str = ""
    """PriorityClass of all pods; empty: the default."""
    podLabels: Strings = {}
    """Further labels of all pods."""
    engines: dict[Name, Engine] = {}
    """Model servers by name. Production can use others: set their addresses in `settings`."""
    services: Services = Services()
    """From the catalog, `src/drw/catalog.py`: `drw generate` writes the defaults."""
