"""Candidates for a request to models other than chat models, as discovery resolved them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from random import Random

from drw.api.models.v1.discovery_pb2 import Permit, Plan, ResolvedModel
from drw.models.serving.ports import ModelSpec
from drw.models.serving.routing.load_balancing import weighted_order
from drw.models.serving.runtime.specs import has_files, spec_of


@dataclass(frozen=True, slots=True, eq=False)
class OrderedPlan:
    """The candidates for one name: weighted targets, then fallbacks."""

    id: str
    """The id of the model or the name of the alias."""
    targets: tuple[tuple[ResolvedModel, int], ...]
    fallbacks: tuple[ResolvedModel, ...]

    @property
    def models(self) -> tuple[ResolvedModel, ...]:
        """All candidates: targets, then fallbacks."""
        return *(model for model, _ in self.targets), *self.fallbacks

    @property
    def permits(self) -> Mapping[str, Permit]:
        """The permits of the models by id."""
        return {resolved.model.id: resolved.permit for resolved in self.models}

    @property
    def main_specs(self) -> tuple[ModelSpec, ...]:
        """The models with traffic that serving runs from their files."""
        return tuple(spec_of(model) for model, weight in self.targets if weight and has_files(model))

    def without(self, names: Container[str]) -> OrderedPlan:
        """Return the candidates without the models of these names."""
        targets = tuple(target for target in self.targets if target[0].model.id not in names)
        fallbacks = tuple(resolved for resolved in self.fallbacks if resolved.model.id not in names)
        return replace(self, targets=targets, fallbacks=fallbacks)

    def order(self, random: Random) -> tuple[ResolvedModel, ...]:
        """Return the models in the order of attempts for one request."""
        if len(self.targets) <= 1:
            return self.models
        by_id = {resolved.model.id: resolved for resolved, _ in self.targets}
        weights = [(resolved.model.id, weight) for resolved, weight in self.targets]
        names = weighted_order(weights, str(random.random()))
        return *(by_id[name] for name in names), *self.fallbacks


def ordered_plan(plan: Plan) -> OrderedPlan:
    """Return the candidates of an answer of discovery."""
    targets = tuple((target.model, target.weight) for target in plan.targets)
    return OrderedPlan(plan.id, targets, tuple(plan.fallbacks))
