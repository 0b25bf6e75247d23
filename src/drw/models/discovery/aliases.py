"""Aliases: one name for several models, with weights and fallbacks. Stored aliases override configured ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from drw.api.models.v1.discovery_pb2 import Alias, WeightedTarget
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import ConfigError, Settings
from drw.models.discovery.versions import identity

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
MAX_MODELS = 16
"""Maximum of targets and fallbacks of one alias together."""
MAX_ALIASES = 1000
MAX_ORG_ALIASES = 100
"""Maximum number of aliases of one org."""
MAX_WEIGHT = 1_000_000
MAX_TOTAL_SECONDS = 3600.0


class AliasNotFound(NotFound):
    """The alias does not exist."""

    def __init__(self, name: str, existing: Iterable[str]) -> None:
        super().__init__(
            f"there is no alias {name!r}; there are: {', '.join(sorted(existing)) or 'none'}", param="name"
        )


class AliasSettings(Settings):
    """One alias: `[services.discovery.aliases.NAME]`."""

    targets: dict[str, int]
    """Models with their weights."""
    fallbacks: tuple[str, ...] = ()
    """Models that are tried in this order after all targets failed."""
    total_seconds: float = Field(0.0, ge=0, le=MAX_TOTAL_SECONDS)
    """Time limit of a complete answer, in seconds. 0: the limit of the first model."""

    def alias(self, name: str) -> Alias:
        """Return the alias as a message of the contract."""
        targets = [WeightedTarget(model=model, weight=weight) for model, weight in self.targets.items()]
        return Alias(
            name=name,
            targets=targets,
            fallbacks=self.fallbacks,
            total_seconds=self.total_seconds,
            from_settings=True,
        )


@dataclass(frozen=True, slots=True)
class OrgAlias:
    """An alias of an org, which names a registered version. It overrides an alias of the platform for the org."""

    org: str
    name: str
    version: int
    """The key of the version in the database."""
    version_id: str
    fallbacks: tuple[str, ...]
    total_seconds: float
    walls: tuple[str, ...]
    """The walls of the version: outside of them, the alias does not exist."""

    def alias(self) -> Alias:
        """Return the alias as a message of the contract."""
        targets = [WeightedTarget(model=self.version_id, weight=1)]
        return Alias(
            name=self.name,
            targets=targets,
            fallbacks=self.fallbacks,
            total_seconds=self.total_seconds,
            owner=self.org,
        )


class Aliases:
    """The effective aliases: those of an org, then stored aliases of the platform, then configured ones.

    `kinds` has the kinds of the models that can be targets of the platform's aliases; those of one alias are equal. An
    alias cannot have one of the `model_ids` as its name.

    Raises:
        ConfigError: a configured alias is invalid.
    """

    def __init__(
        self, settings: Mapping[str, AliasSettings], kinds: Mapping[str, str], model_ids: Collection[str]
    ) -> None:
        self._kinds = kinds
        self._model_ids = model_ids
        self._from_settings = {name: alias_settings.alias(name) for name, alias_settings in settings.items()}
        for name, alias in self._from_settings.items():
            try:
                self.check(alias)
            except InvalidRequest as error:
                raise ConfigError(f"discovery.aliases.{name}: {error.message}") from error
        self._records: dict[str, Alias] = {}
        self._of_orgs: dict[tuple[str, str], OrgAlias] = {}

    def replace(self, records: Iterable[Alias], of_orgs: Iterable[OrgAlias] = ()) -> None:
        """Replace the stored aliases. An alias with the name of a model is ignored."""
        self._records = {alias.name: alias for alias in records if alias.name not in self._model_ids}
        self._of_orgs = {(each.org, each.name): each for each in of_orgs if each.name not in self._model_ids}

    def all(self) -> list[Alias]:
        """Return all effective aliases of the platform, sorted by name."""
        return [alias for _, alias in sorted((self._from_settings | self._records).items())]

    def of_org(self, name: str, principal: Principal | None) -> OrgAlias | None:
        """Return the alias of the caller's org, or None if there is none or the caller is outside of its walls."""
        alias = self._of_orgs.get((principal.org, name)) if principal else None
        return alias if alias and principal and principal.walls.issuperset(alias.walls) else None

    def visible(self, principal: Principal | None) -> list[OrgAlias]:
        """Return the aliases of the caller's org that the caller sees."""
        return [
            alias
            for (org, _), alias in sorted(self._of_orgs.items())
            if principal and org == principal.org and principal.walls.issuperset(alias.walls)
        ]

    def get(self, name: str) -> Alias | None:
        """Return the effective alias, or None."""
        return self._records.get(name) or self._from_settings.get(name)

    def setting(self, name: str) -> Alias | None:
        """Return the configured alias, or None."""
        return self._from_settings.get(name)

    def models(self, alias: Alias) -> list[str]:
        """Return the existing models of an alias without duplicates: targets by weight, then fallbacks."""
        targets = [t.model for t in sorted(alias.targets, key=lambda t: -t.weight)]
        return [name for name in dict.fromkeys([*targets, *alias.fallbacks]) if name in self._kinds]

    def check_name(self, name: str) -> None:
        """Raise `InvalidRequest` if a name cannot name an alias."""
        check_name(name)
        _require(name not in self._model_ids, "name", f"{name!r} is a model; an alias needs another name")

    def check(self, alias: Alias) -> None:
        """Raise `InvalidRequest` if an alias is invalid."""
        self.check_name(alias.name)
        _require(not alias.owner, "owner", "owner is output only")
        _require(len(alias.targets) > 0, "targets", "an alias needs at least one target")
        models = [target.model for target in alias.targets] + list(alias.fallbacks)
        _require(len(models) <= MAX_MODELS, "targets", f"an alias has {len(models)} models; at most {MAX_MODELS}")
        available = ", ".join(sorted(self._kinds)) or "none"
        for model in models:
            _require(
                identity.parse(model) is None or model in self._kinds,
                "targets",
                f"{model!r} is a registered version: `drw models promote {alias.name} {model}` lets an alias name it",
            )
            _require(model in self._kinds, "targets", f"{model!r} is not a model; there are: {available}")
            kind, first = self._kinds[model], self._kinds[models[0]]
            _require(kind == first, "targets", f"{model!r} is a {kind} model and {models[0]!r} a {first} model")
            _require(models.count(model) == 1, "targets", f"{model!r} is named twice; each model once is enough")
        for target in alias.targets:
            message = f"the weight of {target.model!r} is {target.weight}; it can be 0 to {MAX_WEIGHT}"
            _require(0 <= target.weight <= MAX_WEIGHT, "targets", message)
        _require(any(t.weight for t in alias.targets), "targets", "at least one target needs a weight above 0")
        message = f"total_seconds is {alias.total_seconds:g}; it can be 0 to {MAX_TOTAL_SECONDS:g}"
        _require(0 <= alias.total_seconds <= MAX_TOTAL_SECONDS, "total_seconds", message)  # and so no NaN


def check_name(name: str) -> None:
    """Raise `InvalidRequest` if a name is not valid for an alias."""
    message = f"{name!r} cannot name an alias: letters, digits and ._@- only, at most 128"
    _require(bool(NAME.fullmatch(name)), "name", message)
    _require(identity.parse(name) is None, "name", f"{name!r} has the form of a version; an alias needs another name")


def audit_details(alias: Alias | None) -> dict[str, Any] | None:
    """Return an alias for the details of an audit record."""
    if alias is None:
        return None
    targets = {target.model: target.weight for target in alias.targets}
    return {"targets": targets, "fallbacks": list(alias.fallbacks), "total_seconds": alias.total_seconds}


def _require(condition: bool, param: str, message: str) -> None:
    if not condition:
        raise InvalidRequest(message, param=param)
