"""OpenTelemetry's semantic conventions for generative AI: names and values of attributes and metrics.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai (gen-ai-spans.md, gen-ai-metrics.md), status
"development". OpenTelemetry's rules for Prometheus determine the names there: underscores, with the unit at the end
of a metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind
from prometheus_client import Counter, Histogram

from drw.kernel.observability import telemetry
from drw.kernel.observability.model_labels import model_label

OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_ID, FINISH_REASONS = "gen_ai.response.id", "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
INPUT_MESSAGES, OUTPUT_MESSAGES = "gen_ai.input.messages", "gen_ai.output.messages"
DATA_SOURCE, TOP_K = "gen_ai.data_source.id", "gen_ai.request.top_k"
COST = "drw.cost.usd"
"""The conventions have no attribute for money."""

CHAT, COMPLETION, EMBEDDINGS, RETRIEVAL = "chat", "text_completion", "embeddings", "retrieval"
RERANK, TOKENIZE, MODERATION = "rerank", "tokenize", "moderation"
"""Operations of the platform that the conventions do not have."""
INFERENCE = "inference"
"""Of predictive models, which the conventions do not cover."""
WORKFLOW, WORKFLOW_NAME = "invoke_workflow", "gen_ai.workflow.name"
PROVIDERS = {"openai": "openai", "vertex": "gcp.vertex_ai"}
"""Engines with a name in the conventions. Other engines keep their name."""

REQUEST_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "dimensions": "gen_ai.embeddings.dimension.count",
}
"""Parameters of OpenAI's API with their attribute. Stop sequences are omitted, because they are text of the caller."""

DURATION_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4**power for power in range(14))
"""Buckets from the conventions."""

LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
"""Labels. Models are names of the registry, so that names sent by callers never become labels."""

CLIENT_DURATION = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "Duration of a model call, an embedding or a retrieval.",
    [*LABELS, "error_type"],
    buckets=DURATION_SECONDS,
)
CLIENT_TOKENS = Histogram(
    "gen_ai_client_token_usage",
    "Tokens read (input) and written (output) by a call.",
    [*LABELS, "gen_ai_token_type"],
    buckets=TOKENS,
)
COST_USD = Counter("drw_cost_usd", "Cost of model calls in US dollars.", ["org", "desk", "gen_ai_response_model"])


@lru_cache(maxsize=4096)
def cost_counter(org: str, desk: str, model: str) -> Counter:
    """Return the cost counter of a desk and model."""
    return COST_USD.labels(org, desk, model_label(model))


def provider(engine: str) -> str:
    """Return the conventions' name for an engine."""
    return PROVIDERS.get(engine, engine)


@lru_cache(maxsize=256)
def server_attributes(base_url: str) -> Mapping[str, str | int]:
    """Return the address of an engine as attributes: host and port, or the path of a socket."""
    if base_url.startswith("unix:"):
        return {"server.address": base_url.removeprefix("unix:")}
    url = urlsplit(base_url)
    if not url.hostname:
        return {}
    return {"server.address": url.hostname, "server.port": url.port or (443 if url.scheme == "https" else 80)}


def request_attributes(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request as attributes: only numbers and types, never text."""
    attributes = {name: body[key] for key, name in REQUEST_PARAMETERS.items() if isinstance(body.get(key), int | float)}
    if (count := body.get("n", 1)) != 1:
        attributes["gen_ai.request.choice.count"] = count
    if kind := (body.get("response_format") or {}).get("type"):
        attributes["gen_ai.output.type"] = "text" if kind == "text" else "json"
    return attributes


@contextmanager
def operation(
    name: str, subject: str, engine: str, attributes: Mapping[str, Any], kind: SpanKind = SpanKind.CLIENT
) -> Iterator[Span]:
    """Record the block as a span and a measurement of an operation other than a chat call.

    `subject` is the model or data source in the span's name.
    """
    started = perf_counter()
    error_type = ""
    all_attributes = {OPERATION: name, PROVIDER: provider(engine), **attributes}
    try:
        with telemetry.span(f"{name} {subject}", kind, all_attributes) as span:
            yield span
    except BaseException as error:
        error_type = telemetry.error_type(error)
        raise
    finally:
        model = attributes.get(REQUEST_MODEL, "")
        CLIENT_DURATION.labels(name, provider(engine), model, model, error_type).observe(perf_counter() - started)
