"""Catalog of the sixteen services: cluster, name, summary and permitted calls.

`drw generate` and the host read this table. The contract of service NAME of CLUSTER is
proto/drw/api/CLUSTER/v1/NAME.proto, its implementation src/drw/CLUSTER/NAME/service.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of the catalog."""

    name: str
    cluster: str
    summary: str
    calls: tuple[str, ...] = ()

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


def _service(cluster: str, name: str, summary: str, *calls: str) -> Service:
    return Service(name=name, cluster=cluster, summary=summary, calls=calls)


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
        "vector_store",
        "rate_limiting",
        "request_router",
    ),
    _service("models", "discovery", "Registry of models, aliases, fallbacks and endpoints."),
    _service("models", "experiments", "Assigns units to the arms of A/B experiments and compares the arms."),
    _service("models", "health", "Reports the health of all services."),
    _service("rag", "documents", "Stores, parses, chunks and indexes documents.", "embedding", "vector_store"),
    _service("rag", "embedding", "Computes embeddings of texts.", "request_router"),
    _service("rag", "vector_store", "Stores passages, and searches them by vectors and keywords."),
    _service(
        "rag",
        "retrieval",
        "Retrieves passages for a question, and generates an answer with citations.",
        "embedding",
        "vector_store",
        "serving",
    ),
    _service(
        "workflow",
        "orchestration",
        "Runs workflows durably, with retries and recovery.",
        "templates",
        "state",
        "documents",
        "serving",
        "request_router",
    ),
    _service("workflow", "state", "Streams the state of runs as it changes."),
    _service("workflow", "templates", "Stores workflow templates and their versions."),
    _service("workflow", "error_handling", "Stores failed steps as dead letters, and redrives them."),
)

SUPPORT = (_service("audit", "log", "Stores audit records in an append-only log, and proves that they are unchanged."),)
"""Services with a contract that do not belong to the sixteen."""

BY_NAME = {service.name: service for service in SERVICES + SUPPORT}
CLUSTERS = tuple(dict.fromkeys(service.cluster for service in SERVICES))


def callers(name: str) -> frozenset[str]:
    """Return the names of the services that may call this one."""
    return frozenset(service.name for service in BY_NAME.values() if name in service.calls)
