"""Running experiments of aliases and rollouts, and the assignment of calls to their arms.

The experiments service streams them to each process that assigns calls. The last state applies while that service is
down, until it expires; then calls get the models of their alias, and nothing is assigned.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from drw.api.models.v1.experiments_pb2 import RoutedExperiment, RoutedRollout, Routing
from drw.api.models.v1.serving_pb2 import CallAssignment
from drw.kernel.cached_watch import CachedWatch
from drw.kernel.rpc.context import Principal
from drw.routing.assignment import Allocation, unit_hash
from drw.routing.experiments.exposures import Assigned, Assignment, LostExposures
from drw.routing.experiments.treatments import CallTreatment

CONTROL, CANDIDATE = "control", "candidate"
SHADOW_SAMPLE = 100.0
MAX_UNIT = 512
"""Maximum characters of a unit, those of the API."""


@dataclass(frozen=True, slots=True)
class CallUnits:
    """The units of one call by their kind; an empty one is unknown."""

    user: str
    session: str
    document: str
    request: str
    """The id of the response."""

    @classmethod
    def bounded(cls, user: str, session: str, document: str, response_id: str) -> CallUnits:
        """Return the units of a call, which its caller can make long."""
        return cls(_bounded(user), _bounded(session), _bounded(document), response_id)

    def unit(self, kind: str, principal: Principal) -> str:
        """Return the unit of a kind; empty if the call has none."""
        return principal.key if kind == "key" else str(getattr(self, kind))


def _bounded(unit: str) -> str:
    """Return a unit, or a digest of a long one: the hash of an assignment takes time for each character."""
    return unit if len(unit) <= MAX_UNIT else hashlib.sha256(unit.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class CallKind:
    """What decides whether a call can take an arm."""

    chat: bool = True
    """Whether it has the messages and parameters of a chat."""
    text: bool = True
    """Whether every model can read its prompt: token ids belong to one tokenizer."""
    retrieves: bool = False
    """Whether it retrieves passages, with the retrieval settings of its arm."""


class _Routed:
    """One running experiment or rollout."""

    def __init__(
        self, key: int, name: str, unit: str, allocation: Allocation, arms: list[tuple[str, CallTreatment]]
    ) -> None:
        self.key = key
        self.name = name
        self.unit = unit
        self.allocation = allocation
        self.arms = arms
        self.chat_only = any(treatment.chat_only for _, treatment in arms)
        self.retrieves = any(treatment.search.digest for _, treatment in arms)
        self.walls: frozenset[str] = frozenset()

    def assignment(self, unit: str, response_id: str, lost: LostExposures) -> Assignment | None:
        """Return the assignment of a unit; None if the unit is outside of the traffic."""
        if not unit:
            return Assignment(self.key, self.name, response_id, lost)
        if (arm := self.allocation.arm(unit)) is None:
            return None
        name, treatment = self.arms[arm]
        hashed = unit_hash(self.key, unit)
        return Assignment(
            self.key, self.name, response_id, lost, unit=hashed, arm=arm, arm_name=name, treatment=treatment
        )


class RoutingTable:
    """Assigns calls. `clock` is in Unix seconds. `watch` is None if no experiments service runs."""

    def __init__(
        self,
        watch: Callable[[], AsyncIterator[Routing]] | None = None,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._clock = clock
        self._random = random or Random()
        self._lost = LostExposures()
        self._experiments: dict[tuple[str, str, str], list[_Routed]] = {}
        self._rollouts: dict[str, tuple[_Routed, RoutedRollout]] = {}
        self._expires_at = 0.0
        self._watch = CachedWatch(Routing, watch, file, self.apply) if watch and file else None

    async def follow(self) -> None:
        """Apply each state of the experiments service; see `CachedWatch.follow` for errors."""
        if self._watch:
            await self._watch.follow()

    def apply(self, routing: Routing) -> None:
        """Replace the running experiments and rollouts."""
        experiments: dict[tuple[str, str, str], list[_Routed]] = {}
        for experiment in routing.experiments:
            subject = experiment.org, experiment.desk, experiment.alias
            experiments.setdefault(subject, []).append(_of_experiment(experiment))
        for routed in experiments.values():  # the most specific walls first
            routed.sort(key=lambda one: (-len(one.walls), one.key))
        rollouts = {rollout.alias: (_of_rollout(rollout), rollout) for rollout in routing.rollouts}
        self._experiments, self._rollouts, self._expires_at = experiments, rollouts, routing.expires_at

    def assign(self, alias: str, kind: CallKind, principal: Principal | None, units: CallUnits) -> Assignment | None:
        """Return the assignment of a call; None if no experiment or rollout takes it."""
        if principal is None or self._clock() >= self._expires_at:
            return None
        if (routed := self._experiment(alias, kind, principal)) is not None:
            unit = units.unit(routed.unit, principal)
        elif (rollout := self._rollouts.get(alias)) is not None and rollout[1].percent:
            routed = rollout[0]
            unit = units.unit(routed.unit, principal)
            unit = unit and f"{principal.org}/{principal.desk}/{unit}"  # users of two desks are different units
        else:
            return None
        return routed.assignment(unit if _accepts(routed, kind) else "", units.request, self._lost)

    def assign_search(self, alias: str, principal: Principal, units: CallUnits) -> Assigned | None:
        """Return the assignment of a chat before its search; None: the service that calls the model assigns it.

        It assigns the chats that no experiment with retrieval settings takes.
        """
        kind = CallKind(retrieves=True)
        routed = self._experiment(alias, kind, principal) if self._clock() < self._expires_at else None
        if routed is None or not routed.retrieves:
            return None
        return Assigned(routed.assignment(units.unit(routed.unit, principal), units.request, self._lost), True)

    def assigned(self, message: CallAssignment, response_id: str) -> Assigned:
        """Return the assignment that another service made by `assign_search`."""
        if not message.experiment:
            return Assigned(None, True)
        assignment = Assignment(
            message.experiment,
            message.name,
            response_id,
            self._lost,
            unit=message.unit,
            arm=message.arm,
            arm_name=message.arm_name,
            treatment=CallTreatment.of(message.treatment),
        )
        return Assigned(assignment, True)

    def shadow(self, alias: str, kind: CallKind, principal: Principal | None) -> RoutedRollout | None:
        """Return the rollout whose candidate gets a copy of this call, by chance; None: no copy."""
        if principal is None or alias not in self._rollouts or self._clock() >= self._expires_at:
            return None
        routed, rollout = self._rollouts[alias]
        if rollout.percent or not _accepts(routed, kind) or self._experiment(alias, kind, principal) is not None:
            return None
        return rollout if self._random.random() * SHADOW_SAMPLE < rollout.shadow_percent else None

    def _experiment(self, alias: str, kind: CallKind, principal: Principal) -> _Routed | None:
        """Return the experiment of the caller's desk that takes such calls and whose walls the caller is inside of."""
        routed = self._experiments.get((principal.org, principal.desk, alias), ())
        taking = (one for one in routed if kind.retrieves or not one.retrieves)
        return next((one for one in taking if one.walls <= principal.walls), None)


def _accepts(routed: _Routed, kind: CallKind) -> bool:
    """Return whether all arms can answer a call."""
    return kind.text and (kind.chat or not routed.chat_only)


def _of_experiment(experiment: RoutedExperiment) -> _Routed:
    weights = [arm.weight for arm in experiment.arms]
    allocation = Allocation.of_weights(experiment.seed, weights, experiment.traffic_percent)
    arms = [(arm.name, CallTreatment.of(arm.treatment)) for arm in experiment.arms]
    routed = _Routed(experiment.key, experiment.name, experiment.unit, allocation, arms)
    routed.walls = frozenset(experiment.walls)
    return routed


def _of_rollout(rollout: RoutedRollout) -> _Routed:
    """Return the comparison of a canary with a control group of the same size."""
    allocation = Allocation.of_weights(rollout.seed, (1, 1), 2 * rollout.percent)
    arms = [(CONTROL, CallTreatment()), (CANDIDATE, CallTreatment(model=rollout.model))]
    return _Routed(rollout.key, rollout.name, rollout.unit, allocation, arms)
