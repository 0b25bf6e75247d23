"""Status of the serving service: its models, batches in progress, and circuits that are not closed."""

from __future__ import annotations

from drw.api.models.v1.discovery_pb2 import ListModelsRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import Unavailable
from drw.kernel.runtime.clock import Clock
from drw.models.serving.batches.store import BatchStore
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.model_checks import ModelChecks, is_chat_model
from drw.models.serving.routing.model_directory import ModelDirectory


class ServingStatus:
    """Describes the service, and checks whether it can answer."""

    def __init__(
        self, discovery: DiscoveryClient, models: ModelDirectory, batches: BatchStore | None, clock: Clock
    ) -> None:
        self._discovery = discovery
        self._models = models
        self._checks = ModelChecks(models, clock)
        self._batches = batches
        self._clock = clock

    async def describe(self) -> str:
        """Return the models and what is in progress.

        Raises:
            Unavailable: a chat model does not answer.
        """
        models = (await self._discovery.list_models(ListModelsRequest())).models
        circuits = self._open_circuits()
        if errors := await self._checks.errors([model.id for model in models if is_chat_model(model)]):
            raise Unavailable("; ".join([*errors, *circuits]))
        names = [f"{model.id} (default)" if model.default else model.id for model in models]
        active = await self._batches.active() if self._batches else 0
        running = [f"{active} batches in progress"] if active else []
        return "; ".join([", ".join(names) or "no models", *running, *circuits])

    async def check_models(self) -> None:
        """Check that a chat model answers, if there are chat models.

        Raises:
            Unavailable: none answers.
        """
        names = await self._checks.chat_models(self._discovery)
        if names and len(await self._checks.errors(names)) == len(names):
            raise Unavailable("no chat model answers")

    def _open_circuits(self) -> list[str]:
        """Describe each circuit that is not closed."""
        lines = []
        for model, replica in self._models.replicas():
            if replica.circuit.state is State.HALF_OPEN:
                lines.append(f"circuit of {model} at {replica.name} half-open: probing")
            elif replica.circuit.state is State.OPEN:
                remaining = max(0.0, replica.circuit.ready_at - self._clock.time())
                lines.append(f"circuit of {model} at {replica.name} open for {remaining:.0f} s more")
        return lines
