"""Exposures: the event of a call that an experiment or a rollout assigned, committed with an audit record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson
from prometheus_client import Counter as PrometheusCounter

from drw.api.models.v1.serving_pb2 import CallAssignment
from drw.kernel.rpc.context import caller_or_none
from drw.kernel.storage import audit
from drw.routing.experiments.retrieval_settings import UNCHANGED, SearchSettings
from drw.routing.experiments.treatments import CallTreatment

TOPIC = "experiments"
"""The topic of the events in the outbox."""
EXPOSURES = PrometheusCounter(
    "drw_experiment_exposures", "Calls that experiments and rollouts assigned: recorded or lost.", ["outcome"]
)
RECORDED, LOST, NOT_ASSIGNED = "recorded", "lost", "not_assigned"


class LostExposures:
    """Exposures of this process that could not be written, by the key of their experiment.

    The next event of the experiment reports them.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, experiment: int, count: int) -> None:
        """Count lost exposures."""
        self._counts[experiment] += count

    def take(self, experiment: int) -> int:
        """Return the count of lost exposures, and reset it."""
        return self._counts.pop(experiment, 0)


class Assignment:
    """The arm of one call. A call without the unit of its experiment has no arm and no treatment."""

    def __init__(
        self,
        experiment: int,
        name: str,
        response_id: str,
        lost: LostExposures,
        *,
        unit: bytes = b"",
        arm: int = 0,
        arm_name: str = "",
        treatment: CallTreatment | None = None,
    ) -> None:
        self.experiment = experiment
        self.name = name
        self.arm_name = arm_name
        self.treatment = treatment or CallTreatment()
        self.intended_model = ""
        """The model that answers unless it fails."""
        self._response_id = response_id
        self._unit = unit
        self._arm = arm
        self._lost = lost
        self._reported = 0

    @property
    def label(self) -> str:
        """The experiment and its arm, as in the response header; empty without an arm."""
        return f"{self.name}/{self.arm_name}" if self._unit else ""

    def details(self) -> dict[str, str]:
        """Return what the audit record of the call says about its arm."""
        if not self.label:
            return {}
        settings = self.treatment.search.digest
        return {"experiment": self.label} | ({"retrieval_settings_sha256": settings} if settings else {})

    def message(self) -> CallAssignment:
        """Return the assignment for the service that calls the model."""
        return CallAssignment(
            experiment=self.experiment,
            name=self.name,
            unit=self._unit,
            arm=self._arm,
            arm_name=self.arm_name,
            treatment=self.treatment.message,
        )

    def line(self, record: str, outcome: str, details: dict[str, Any], cost: int, *, failed: bool) -> audit.Line:
        """Return an audit record with the event of the exposure and its outcomes. `cost` is in nano-dollars."""
        event: dict[str, Any] = {"experiment": self.experiment, "not_assigned": 1}
        if self._unit:
            principal = caller_or_none()
            event = {
                "experiment": self.experiment,
                "unit": self._unit.hex(),
                "arm": self._arm,
                "response": self._response_id,
                "settings": self.treatment.search.digest,
                "walls": sorted(principal.walls) if principal else [],
                **self._outcomes(outcome, details, cost, failed=failed),
            }
        self._reported = self._lost.take(self.experiment)
        if self._reported:
            event["lost"] = self._reported
        return audit.Line.with_event(record, TOPIC, orjson.dumps(event).decode())

    def written(self, *, committed: bool) -> None:
        """Count the event as recorded or lost."""
        assigned = bool(self._unit)
        if committed:
            EXPOSURES.labels(RECORDED if assigned else NOT_ASSIGNED).inc()
            return
        if assigned:
            EXPOSURES.labels(LOST).inc()
        self._lost.add(self.experiment, self._reported + assigned)

    def _outcomes(self, outcome: str, details: dict[str, Any], cost: int, *, failed: bool) -> dict[str, Any]:
        if outcome != "ok" and not failed:
            return {}  # cancelled by the caller or the platform, or refused for a reason that is not the model's
        attempts = details.get("attempts", ())
        fell_back = details.get("model") != self.intended_model or any(one["outcome"] != "ok" for one in attempts)
        outcomes = {"ERROR": int(failed or fell_back), "TOTAL_MS": details["ms"], "COST_NANO": cost}
        if "first_token_ms" in details:
            outcomes["FIRST_TOKEN_MS"] = details["first_token_ms"]
        outcomes["TOKENS"] = details.get("prompt_tokens", 0) + details.get("completion_tokens", 0)
        return {"outcomes": outcomes}


@dataclass(frozen=True, slots=True)
class Assigned:
    """The outcome of the assignment of a call: an arm, or None if no experiment and no rollout takes it."""

    assignment: Assignment | None
    retrieves: bool
    """Whether the call retrieves passages under this assignment."""

    @property
    def search(self) -> SearchSettings:
        """The retrieval settings of the arm."""
        return self.assignment.treatment.search if self.assignment else UNCHANGED

    def message(self) -> CallAssignment:
        """Return the outcome for the service that calls the model."""
        return self.assignment.message() if self.assignment else CallAssignment()
