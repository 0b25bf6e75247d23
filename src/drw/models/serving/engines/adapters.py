"""The engine adapters of this process, created on first use."""

from __future__ import annotations

from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import ConfigError
from drw.models.serving.ports import ChatEngine
from drw.models.serving.settings import Settings


class Engines:
    """The engine adapters, created on first use."""

    def __init__(self, scope: ServiceContext, settings: Settings) -> None:
        self._scope = scope
        self._settings = settings
        self._engines: dict[str, ChatEngine] = {}

    def get(self, name: str) -> ChatEngine:
        """Return the adapter with this name."""
        if name not in self._engines:
            if name not in (adapters := self._scope.adapters()):
                raise ConfigError(f"there is no engine {name!r}; there are: {', '.join(adapters)}")
            section = getattr(self._settings, name).model_dump()
            self._engines[name] = self._scope.make_adapter(ChatEngine, name, section)  # type: ignore[type-abstract]
        return self._engines[name]

    async def close(self) -> None:
        """Close the connections of all adapters."""
        for engine in self._engines.values():
            await engine.close()
