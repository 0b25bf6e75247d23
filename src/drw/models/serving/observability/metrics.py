"""The metrics of model calls, by the names and buckets of OpenTelemetry's conventions."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Histogram

from drw.kernel.observability import gen_ai

DURATION = Histogram(
    "gen_ai_server_request_duration_seconds",
    "From the request to the end of its answer. outcome: ok, refused, failed, client_gone or killed.",
    [*gen_ai.LABELS, "error_type", "outcome"],
    buckets=gen_ai.DURATION_SECONDS,
)
FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From the request to its first token.",
    gen_ai.LABELS,
    buckets=gen_ai.FIRST_TOKEN_SECONDS,
)
PER_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Time between tokens after the first, over a whole answer.",
    gen_ai.LABELS,
    buckets=gen_ai.PER_TOKEN_SECONDS,
)


class CallMetrics:
    """The metrics of one model under one operation, each found once."""

    def __init__(self, operation: str, provider: str, requested: str, model: str) -> None:
        self._labels = operation, provider, requested, model
        self.first_token = FIRST_TOKEN.labels(*self._labels)
        self.per_token = PER_TOKEN.labels(*self._labels)
        self.input = gen_ai.CLIENT_TOKENS.labels(*self._labels, "input")
        self.output = gen_ai.CLIENT_TOKENS.labels(*self._labels, "output")
        self._ends: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}

    def ended(self, outcome: str, error_type: str, served: float, called: float | None) -> None:
        """Observe the end of a call: how long it took to serve and, where a model was called, how long that took."""
        end = self._ends.get((outcome, error_type))
        if end is None:
            client = gen_ai.CLIENT_DURATION.labels(*self._labels, error_type)
            end = DURATION.labels(*self._labels, error_type, outcome), client
            self._ends[outcome, error_type] = end
        end[0].observe(served)
        if called is not None:
            end[1].observe(called)


@lru_cache(maxsize=1024)
def metrics(operation: str, provider: str, requested: str, model: str) -> CallMetrics:
    """Return the metrics of a model. The names are those of the registry, never a caller's own words."""
    return CallMetrics(operation, provider, requested, model)
