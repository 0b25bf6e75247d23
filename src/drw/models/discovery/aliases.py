"""Aliases: one name for several models, with weights and fallbacks; records stand before settings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import Field

from drw.api.models.v1.discovery_pb2 import Alias, WeightedTarget
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.runtime.settings import ConfigError, Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
MAX_MODELS = 16
"""Targets and fallbacks of one alias together."""
MAX_ALIASES = 1000
MAX_WEIGHT = 1_000_000
MAX_TOTAL_SECONDS = 3600.0


class AliasNotFound(NotFound):
    """There is no alias of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"there is no alias {name!r}; there are: {', '.join(sorted(known)) or 'none'}", param="name")


class AliasSettings(Settings):
    """One alias: `[services.discovery.aliases.NAME]`."""

    targets: dict[str, int]
    """Models, each with its weight."""
    fallbacks: tuple[str, ...] = ()
    """Models that answer where no target does, in this order."""
    total_seconds: float = Field(0.0, ge=0, le=MAX_TOTAL_SECONDS)
    """For a whole answer; 0: as the first model has it."""

    def alias(self, name: str) -> Alias:
        """Return it as the contract has it."""
        targets = [WeightedTarget(model=model, weight=weight) for model, weight in self.targets.items()]
        return Alias(
            name=name,
            targets=targets,
            fallbacks=self.fallbacks,
            total_seconds=self.total_seconds,
            from_settings=True,
        )


class Aliases:
    """The aliases in force: each record in place of the setting of its name.

    `chat` names the chat models, and `taken` every model: a model's own id is never an alias.

    Raises:
        ConfigError: an alias of the settings is wrong.
    """

    def __init__(self, settings: Mapping[str, AliasSettings], chat: Collection[str], taken: Collection[str]) -> None:
        self._chat = chat
        self._taken = taken
        self._from_settings = {name: each.alias(name) for name, each in settings.items()}
        for name, alias in self._from_settings.items():
            try:
                self.check(alias)
            except InvalidRequest as error:
                raise ConfigError(f"discovery.aliases.{name}: {error.message}") from error
        self._records: dict[str, Alias] = {}

    def replace(self, records: Iterable[Alias]) -> None:
        """Take these records in place of those before; one whose name a model has by now does not count."""
        self._records = {alias.name: alias for alias in records if alias.name not in self._taken}

    def all(self) -> list[Alias]:
        """Return every alias in force, sorted by name."""
        return [alias for _, alias in sorted((self._from_settings | self._records).items())]

    def get(self, name: str) -> Alias | None:
        """Return the alias in force, or None."""
        return self._records.get(name) or self._from_settings.get(name)

    def setting(self, name: str) -> Alias | None:
        """Return the alias of that name in the settings, or None."""
        return self._from_settings.get(name)

    def models(self, alias: Alias) -> list[str]:
        """Return the models behind an alias that there are: targets by weight, then fallbacks, each once."""
        targets = [t.model for t in sorted(alias.targets, key=lambda t: -t.weight)]
        return [name for name in dict.fromkeys([*targets, *alias.fallbacks]) if name in self._chat]

    def check(self, alias: Alias) -> None:
        """Raise `InvalidRequest` where an alias cannot be one."""
        check_name(alias.name)
        _hold(alias.name not in self._taken, "name", f"{alias.name!r} is a model; an alias needs another name")
        _hold(len(alias.targets) > 0, "targets", "an alias needs at least one target")
        named = [target.model for target in alias.targets] + list(alias.fallbacks)
        _hold(len(named) <= MAX_MODELS, "targets", f"an alias names {len(named)} models; at most {MAX_MODELS}")
        there = ", ".join(sorted(self._chat)) or "none"
        for model in named:
            _hold(model in self._chat, "targets", f"{model!r} is not a chat model; there are: {there}")
            _hold(named.count(model) == 1, "targets", f"{model!r} is named twice; each model once is enough")
        for target in alias.targets:
            message = f"the weight of {target.model!r} is {target.weight}; it can be 0 to {MAX_WEIGHT}"
            _hold(0 <= target.weight <= MAX_WEIGHT, "targets", message)
        _hold(any(t.weight for t in alias.targets), "targets", "at least one target needs a weight above 0")
        message = f"total_seconds is {alias.total_seconds:g}; it can be 0 to {MAX_TOTAL_SECONDS:g}"
        _hold(0 <= alias.total_seconds <= MAX_TOTAL_SECONDS, "total_seconds", message)  # and so no NaN


def check_name(name: str) -> None:
    """Raise `InvalidRequest` where a name cannot be an alias's."""
    message = f"{name!r} cannot name an alias: letters, digits and ._@- only, at most 128"
    _hold(bool(NAME.fullmatch(name)), "name", message)


def shown(alias: Alias | None) -> dict[str, Any] | None:
    """Return an alias as audit records show it."""
    if alias is None:
        return None
    targets = {target.model: target.weight for target in alias.targets}
    return {"targets": targets, "fallbacks": list(alias.fallbacks), "total_seconds": alias.total_seconds}


def _hold(right: bool, param: str, message: str) -> None:
    if not right:
        raise InvalidRequest(message, param=param)
