"""The sixteen services, in one table.

Everything that must agree about them is made from here by `drw generate`. By
convention the service NAME of CLUSTER is described in
proto/drw/api/CLUSTER/v1/NAME.proto and written in src/drw/CLUSTER/NAME/service.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One row of the table."""

    name: str
    cluster: str
    summary: str
    calls: tuple[str, ...] = ()

    @property
    def contract(self) -> str:
        """The full name of the service in its contract, as in `drw.api.rag.v1.VectorStore`."""
        return f"drw.api.{self.cluster}.v1.{''.join(part.title() for part in self.name.split('_'))}"

    @property
    def package(self) -> str:
        """The Python package in which the service is written."""
        return f"drw.{self.cluster}.{self.name}"

    @property
    def process(self) -> str:
        """The process, and so the upstream, that runs the service where a cluster is a process."""
        return self.cluster if self.cluster in CLUSTERS else "gateway"


def _row(cluster: str, name: str, summary: str, *calls: str) -> Service:
    return Service(name=name, cluster=cluster, summary=summary, calls=calls)


SERVICES = (
    _row("gateway", "authentication", "Says who is calling and what they may do.", "rate_limiting"),
    _row("gateway", "rate_limiting", "Keeps limits, budgets, prices and the ledger of what was spent."),
    _row("gateway", "load_balancer", "Knows where each upstream answers, and how to spread requests over it."),
    _row(
        "gateway",
        "request_router",
        "Puts together what the data plane does with a request.",
        "authentication",
        "rate_limiting",
        "load_balancer",
        "discovery",
    ),
    _row("models", "serving", "Runs models.", "discovery", "embedding", "rate_limiting", "request_router"),
    _row("models", "discovery", "Knows every model and where it is served."),
    _row("models", "experiments", "Splits traffic between model versions and compares them."),
    _row("models", "health", "Watches every service, and says which are fit to serve."),
    _row("rag", "documents", "Turns documents into passages and indexes them.", "embedding", "vector_store"),
    _row("rag", "embedding", "Turns text into vectors.", "request_router"),
    _row("rag", "vector_store", "Stores passages with their vectors and words, and finds the nearest."),
    _row(
        "rag",
        "retrieval",
        "Finds the passages that answer a question, and words an answer with citations.",
        "embedding",
        "vector_store",
        "serving",
    ),
    _row(
        "workflow",
        "orchestration",
        "Runs workflows to their end, whatever fails on the way.",
        "templates",
        "state",
        "documents",
        "serving",
        "request_router",
    ),
    _row("workflow", "state", "Shows the state of every run as it changes."),
    _row("workflow", "templates", "Keeps the workflow templates and their versions."),
    _row("workflow", "error_handling", "Keeps failed steps, and puts them back to work."),
)

SUPPORT = (_row("audit", "log", "Keeps the audit trail, and proves that nobody changed it."),)
"""What stands around the sixteen, with a contract of its own."""

BY_NAME = {service.name: service for service in SERVICES + SUPPORT}
CLUSTERS = tuple(dict.fromkeys(service.cluster for service in SERVICES))


def callers(name: str) -> frozenset[str]:
    """Return the names of the services that may call this one."""
    return frozenset(service.name for service in BY_NAME.values() if name in service.calls)
