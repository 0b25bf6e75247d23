"""Metrics of model calls, with the names and buckets of OpenTelemetry's conventions."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Histogram

from drw.kernel.observability import gen_ai
from drw.kernel.observability.model_labels import model_label

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
    """The metrics of one model and operation, with labels resolved once."""

    def __init__(self, operation: str, provider: str, requested: str, model: str) -> None:
        self._labels = operation, provider, model_label(requested), model_label(model)
        self.first_token = FIRST_TOKEN.labels(*self._labels)
        self.per_token = PER_TOKEN.labels(*self._labels)
        self.input = gen_ai.CLIENT_TOKENS.labels(*self._labels, "input")
        self.output = gen_ai.CLIENT_TOKENS.labels(*self._labels, "output")
        self._histograms: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}

    def observe(self, outcome: str, error_type: str, seconds: float, model_seconds: float | None) -> None:
        """Observe the duration of a call, and of the model call if there was one."""
        histograms = self._histograms.get((outcome, error_type))
        if histograms is None:
            client = gen_ai.CLIENT_DURATION.labels(*self._labels, error_type)
            histograms = DURATION.labels(*self._labels, error_type, outcome), client
            self._histograms[outcome, error_type] = histograms
        histograms[0].observe(seconds)
        if model_seconds is not None:
            histograms[1].observe(model_seconds)


@lru_cache(maxsize=1024)
def metrics(operation: str, provider: str, requested: str, model: str) -> CallMetrics:
    """Return the metrics of a model. Label values come from the registry, never from the request."""
    return CallMetrics(operation, provider, requested, model)
