"""Catalog of the sixteen services: cluster, name, summary, service level objective, permitted calls and events.

`drw generate` and the host read this table. The contract of service NAME of CLUSTER is
proto/drw/api/CLUSTER/v1/NAME.proto, its implementation src/drw/CLUSTER/NAME/service.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Service level objective over `OBJECTIVE_DAYS` days."""

    availability: float = 0.999
    """Share of requests that do not fail because of the platform (5xx, or the same codes of gRPC)."""
    latency_ms: int = 1000
    """Time to the first byte of an answer ..."""
    latency_quantile: float = 0.99
    """... that this share of the answers meets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnAlert:
    """Alert of an error budget: both windows burn it faster than `rate`, at which it lasts `OBJECTIVE_DAYS / rate`."""

    name: str
    rate: float
    long_minutes: int
    short_minutes: int
    severity: str
    """`page`: act now; `ticket`: next working day."""


OBJECTIVE_DAYS = 30
BURN_ALERTS = (
    BurnAlert(name="Fast", rate=14.4, long_minutes=60, short_minutes=5, severity="page"),
    BurnAlert(name="Medium", rate=6.0, long_minutes=360, short_minutes=30, severity="page"),
    BurnAlert(name="Slow", rate=3.0, long_minutes=1440, short_minutes=120, severity="ticket"),
    BurnAlert(name="Long", rate=1.0, long_minutes=4320, short_minutes=360, severity="ticket"),
)
"""Windows and rates of Google's "The Site Reliability Workbook" (2018), chapter 5, fastest first."""
MIN_BAD_REQUESTS = 5
"""Failed or slow requests in the long window without which no alert of a budget fires. Without a minimum, one failed
request of a service with little traffic would page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of the catalog."""

    name: str
    cluster: str
    summary: str
    calls: tuple[str, ...] = ()
    objective: Objective = Objective()

    @property
    def contract(self) -> str:
        """Full name of the service in its contract, as in `drw.api.rag.v1.VectorStore`."""
        return f"drw.api.{self.cluster}.v1.{''.join(part.title() for part in self.name.split('_'))}"

    @property
    def package(self) -> str:
        """Python package that implements the service."""
        return f"drw.{self.cluster}.{self.name}"

    @property
    def process(self) -> str:
        """Process, and upstream of the data plane, that runs the service if each cluster is a process."""
        return self.cluster if self.cluster in CLUSTERS else "gateway"


def _service(cluster: str, name: str, summary: str, *calls: str, objective: Objective = Objective()) -> Service:
    return Service(name=name, cluster=cluster, summary=summary, calls=calls, objective=objective)


SERVICES = (
    _service("gateway", "authentication", "Authenticates callers and issues API keys.", "rate_limiting"),
    _service("gateway", "rate_limiting", "Manages limits, budgets, prices and the ledger of spending."),
    _service("gateway", "load_balancer", "Manages upstreams, their addresses and their load balancing."),
    _service(
        "gateway",
        "request_router",
        "Assembles the desired state of the data plane: keys, routes, limits and kills.",
        "authentication",
        "rate_limiting",
        "load_balancer",
        "discovery",
    ),
    _service(
        "models",
        "serving",
        "Serves OpenAI's and Anthropic's APIs for models, with failover, budgets and audit records.",
        "discovery",
        "embedding",
        "experiments",
        "vector_store",
        "rate_limiting",
        "request_router",
        "documents",
        "authentication",
        objective=Objective(latency_ms=10_000, latency_quantile=0.95),
    ),
    _service(
        "models",
        "discovery",
        "Registry of models: versions, validation records, aliases and endpoints.",
        "authentication",
        objective=Objective(availability=0.9995, latency_ms=250),
    ),
    _service(
        "models",
        "experiments",
        "Assigns units to the arms of A/B experiments, compares the arms, and rolls out models.",
        "authentication",
        "discovery",
    ),
    _service("models", "health", "Reports health, error budgets and status history.", "discovery", "serving"),
    _service(
        "rag",
        "documents",
        "Stores, parses, chunks and indexes documents.",
        "embedding",
        "vector_store",
        objective=Objective(latency_ms=5000),
    ),
    _service("rag", "embedding", "Computes embeddings of texts.", "request_router"),
    _service("rag", "vector_store", "Stores passages, and searches them by vectors and keywords."),
    _service(
        "rag",
        "retrieval",
        "Retrieves passages for a question, and generates an answer with citations.",
        "embedding",
        "vector_store",
        "serving",
        "experiments",
        objective=Objective(latency_ms=2500, latency_quantile=0.95),
    ),
    _service(
        "workflow",
        "orchestration",
        "Runs workflows durably, with retries and recovery.",
        "templates",
        "state",
        "documents",
        "retrieval",
        "serving",
        "discovery",
        "request_router",
        "authentication",
    ),
    _service("workflow", "state", "Streams the state of runs as it changes."),
    _service("workflow", "templates", "Stores workflow templates and their versions."),
    _service("workflow", "error_handling", "Stores failed runs as dead letters, and redrives them.", "orchestration"),
)

SUPPORT = (
    _service("audit", "log", "Stores audit records in an append-only log, and proves that they are unchanged."),
    _service("bus", "events", "Relays events to the event bus, and streams them to operators."),
)
"""Services with a contract that do not belong to the sixteen."""

BY_NAME = {service.name: service for service in SERVICES + SUPPORT}
CLUSTERS = tuple(dict.fromkeys(service.cluster for service in SERVICES))


AGENT = "agent"
"""The agent of the data plane, which is a caller but no service ..."""
AGENT_CALLS = ("request_router", "rate_limiting")
"""... and the services that it may call."""


def callers(name: str) -> frozenset[str]:
    """Return the names of the services that may call this one, and the agent's if it may."""
    services = frozenset(service.name for service in BY_NAME.values() if name in service.calls)
    return services | {AGENT} if name in AGENT_CALLS else services


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """One type of events on the event bus."""

    name: str
    """Thing and verb, as in `model.promoted`."""
    message: str
    """The message in proto/drw/api/events/v1 that describes the data."""
    publisher: str
    scope: str
    """The scope that a caller needs to see it, in addition to `events:read`: the one of the resource."""
    consumers: tuple[str, ...] = ("events", "orchestration")

    @property
    def type(self) -> str:
        """The attribute `type` of the CloudEvent."""
        return f"com.drw.ai.{self.name}.v1"

    @property
    def schema(self) -> str:
        """The full name of the message."""
        return f"drw.api.events.v1.{self.message}"


EVENT_TYPES = (
    EventType(name="model.promoted", message="ModelPromoted", publisher="discovery", scope="models:read"),
    EventType(name="alias.moved", message="AliasMoved", publisher="discovery", scope="models:read"),
    EventType(name="document.indexed", message="DocumentIndexed", publisher="documents", scope="documents:read"),
    EventType(name="run.ended", message="RunEnded", publisher="orchestration", scope="workflows:read"),
    EventType(
        name="workflow.published", message="WorkflowPublished", publisher="orchestration", scope="workflows:read"
    ),
    EventType(
        name="dead_letter.created", message="DeadLetterCreated", publisher="error_handling", scope="workflows:read"
    ),
    EventType(name="kill.activated", message="KillActivated", publisher="request_router", scope="platform:kill"),
    EventType(name="kill.lifted", message="KillLifted", publisher="request_router", scope="platform:kill"),
    EventType(name="budget.nearly_spent", message="BudgetNearlySpent", publisher="rate_limiting", scope="keys:read"),
)
"""All types of events: who publishes and who consumes each."""


def consumed_by(name: str) -> tuple[EventType, ...]:
    """Return the types of events that a service consumes."""
    return tuple(event for event in EVENT_TYPES if name in event.consumers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a service runs on Kubernetes. `drw generate` writes it into the values of the Helm chart."""

    replicas: int = 2
    max_replicas: int = 0
    """Replicas up to which load adds more; 0: none."""
    cpu: str = "100m"
    """Requested CPU."""
    memory: str = "256Mi"
    """Requested memory."""
    memory_limit: str = "512Mi"
    """Memory at which a replica is restarted."""
    gpu: int = 0
    """GPUs of each replica. Models run in engines, so that no service needs one."""
    volume: str = ""
    """Size of the persistent volume of its data folder; empty: the folder holds only caches."""
    drain_seconds: int = 10
    """Maximum time for requests in flight when a replica stops."""
    valkey: bool = False
    """Connects to Valkey."""
    bus: bool = False
    """Connects to the event bus."""
    internet: bool = False
    """Calls hosts outside the platform: models, identity providers, and those of HTTP steps."""
    reads_status: bool = False
    """Reads the status of all processes, in addition to its calls."""


_ONE = Placement(replicas=1)
"""For services that keep state of other processes in memory, such as the data planes that watch them."""

PLACEMENTS = {
    "authentication": Placement(internet=True),
    "rate_limiting": Placement(replicas=1, valkey=True),
    "load_balancer": Placement(),
    "request_router": _ONE,
    "serving": Placement(
        max_replicas=10,
        cpu="500m",
        memory="512Mi",
        memory_limit="2Gi",
        drain_seconds=300,
        valkey=True,
        internet=True,
    ),
    "discovery": Placement(replicas=1, memory="512Mi", memory_limit="2Gi", volume="50Gi", internet=True),
    "experiments": Placement(),
    "health": Placement(replicas=1, reads_status=True),
    "documents": Placement(replicas=1, cpu="500m", memory="1Gi", memory_limit="4Gi", volume="100Gi", drain_seconds=60),
    "embedding": Placement(max_replicas=8, cpu="1", memory="512Mi", memory_limit="1Gi", drain_seconds=30),
    "vector_store": Placement(max_replicas=6, cpu="250m", drain_seconds=30),
    "retrieval": Placement(max_replicas=6, cpu="250m", drain_seconds=120),
    "orchestration": Placement(cpu="250m", memory="512Mi", memory_limit="1Gi", drain_seconds=30, internet=True),
    "state": Placement(valkey=True, drain_seconds=30),
    "templates": Placement(),
    "error_handling": Placement(),
    "log": Placement(replicas=1, volume="20Gi"),
    "events": Placement(valkey=True, bus=True),
}
"""The placement of each service. A service with a volume has one replica, unless several nodes can mount the volume."""

OWNERS = {
    "gateway": "ai-gateway",
    "models": "ai-models",
    "rag": "ai-retrieval",
    "workflow": "ai-workflows",
    "audit": "ai-gateway",
    "bus": "ai-gateway",
}
"""The team that owns the services of each cluster."""
