"""Record of one model call: audit record, span, metrics and log fields."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from opentelemetry.trace import SpanKind

from drw.billing.amounts import NANO, to_usd
from drw.billing.ledger.ledger import InCommit
from drw.billing.reservations.reservation import Settlement
from drw.kernel.errors import (
    ClientDisconnected,
    DrwError,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unavailable,
)
from drw.kernel.observability import gen_ai, overhead, telemetry
from drw.kernel.storage.audit import AuditWriter, Line, digest
from drw.killswitch.watch import Killed
from drw.models.serving.observability import content_capture
from drw.models.serving.observability.metrics import CallMetrics, metrics
from drw.models.serving.openai.responses import Answer

OPERATIONS = {
    "chat": gen_ai.CHAT,
    "completion": gen_ai.COMPLETION,
    "embedding": gen_ai.EMBEDDINGS,
    "rerank": gen_ai.RERANK,
    "tokenize": gen_ai.TOKENIZE,
    "moderation": gen_ai.MODERATION,
    "inference": gen_ai.INFERENCE,
    "messages": gen_ai.CHAT,
    "response": gen_ai.CHAT,
    "shadow": "shadow",
}
"""Operation names of the audit log, mapped to those of OpenTelemetry's conventions."""
TOKEN_ATTRIBUTES = {gen_ai.INPUT_TOKENS: "prompt_tokens", gen_ai.OUTPUT_TOKENS: "completion_tokens"}
STREAMED = dict.fromkeys((gen_ai.CHAT, gen_ai.COMPLETION), {gen_ai.REQUEST_STREAM: True})
"""Requests to engines always stream."""
REJECTED = (InvalidRequest, NotFound, Forbidden, RateLimited)
EXPERIMENT = "drw.experiment"
"""The attribute of a span with the experiment and arm of the call."""


class CallEvent(Protocol):
    """The event of a call that an experiment or a rollout measures."""

    @property
    def label(self) -> str:
        """The experiment and its arm; empty without an arm."""

    def details(self) -> dict[str, str]:
        """Return what the audit record says about the arm."""

    def line(self, record: str, outcome: str, details: dict[str, Any], cost: int, *, failed: bool) -> Line:
        """Return the audit record with the event. `cost` is in nano-dollars; `failed`: the model is to blame."""

    def written(self, *, committed: bool) -> None:
        """Take note of whether the event was committed."""


class CallRecord:
    """The record of one call; `close` or `fail` it before the response ends.

    Outcomes: `ok`; `refused`: an error of the request; `failed`: an error of the platform or engine;
    `client_gone`: the caller disconnected; `killed`: a kill switch ended the call.
    """

    def __init__(self, audit: AuditWriter, operation: str, request: bytes) -> None:
        self._audit = audit
        self._operation = operation
        self._started_at = time.perf_counter()
        self._account = overhead.begin()
        self._planned_at: float | None = None
        self._called_at: float | None = None
        self._first_token: float | None = None
        self._closed = False
        self._failed = False
        self._error_type = ""
        self._cost = 0
        self._requested = self._model = self._provider = ""
        self._span: telemetry.AttachedSpan | None = None
        self.request = request
        self.attempts: list[dict[str, Any]] = []
        """Finished attempts: `model`, `replica`, `outcome`, `ms`, and token counts."""
        self.models: set[str] = set()
        """The models by which a kill can stop the call: the requested model and the one that answers."""
        self.details: dict[str, Any] = {"request_sha256": digest(request)}
        self.in_commit: InCommit | None = None
        """Writes that are committed together with the charge and the record of a successful call, or not at all."""
        self.response_body = b""
        """The body of a response that `in_commit` stores."""
        self._log_fields: dict[str, Any] = {}
        self._event: CallEvent | None = None

    def assign(self, event: CallEvent) -> None:
        """Set the event of the call, which is written with the audit record."""
        self._event = event
        self.details |= event.details()

    def plan(self, requested: str, model: str, engine: str) -> None:
        """Set the first candidate; failures before the first attempt count for it."""
        self._planned_at = time.perf_counter()
        self._requested, self._model, self._provider = requested, model, gen_ai.provider(engine)

    def set_model(
        self, model: str, engine: str, upstream_model: str, *, requested: str = "", address: str = ""
    ) -> None:
        """Set the model of the present attempt.

        `requested` is the name in the request if it differs, such as an alias.
        """
        if self._called_at is None:
            self._start_span(requested or model, engine, address)
        self._model, self._provider = model, gen_ai.provider(engine)
        self.models = {self._requested, model}
        self.details |= {"model": model, "engine": engine, "upstream_model": upstream_model}

    def add_attempt(self, entry: dict[str, Any]) -> None:
        """Add a finished attempt."""
        self.attempts.append(entry)

    def trace_request(self, body: Mapping[str, Any]) -> None:
        """Add the request to the span; its messages only if content capture is on."""
        if self._span and self._span.span.is_recording():
            self._span.span.set_attributes(gen_ai.request_attributes(body))
            if limit := content_capture.character_limit():
                self._span.span.set_attribute(gen_ai.INPUT_MESSAGES, content_capture.input_messages(body, limit))

    def note_token(self) -> None:
        """Observe the time to first token at the first token."""
        if self._first_token is None:
            self._first_token = time.perf_counter() - self._started_at
            self._metrics().first_token.observe(self._first_token)

    def set_answer(self, text: str | bytes, usage: dict[str, Any] | None, finish_reason: str = "") -> None:
        """Set the hash, token counts and finish reason of the answer."""
        self.details["answer_sha256"] = digest(text)
        if finish_reason:
            self.details["finish_reason"] = finish_reason
        for kind in ("prompt_tokens", "completion_tokens"):
            if usage and (count := usage.get(kind)):
                self.details[kind] = count

    def trace_answer(self, answer: Answer) -> None:
        """Add the id and finish reasons of the answer to the span; its text only if content capture is on."""
        if not (self._span and self._span.span.is_recording()):
            return
        span = self._span.span
        span.set_attribute(gen_ai.RESPONSE_ID, answer.id)
        span.set_attribute(gen_ai.FINISH_REASONS, answer.finish_reasons)
        if limit := content_capture.character_limit():
            messages = zip(answer.messages(), answer.finish_reasons, strict=True)
            span.set_attribute(gen_ai.OUTPUT_MESSAGES, content_capture.output_messages(messages, limit))

    def charge(self, settlement: Settlement) -> None:
        """Set the cost of the call."""
        self._cost = settlement.cost
        self.details |= settlement.details
        self.details["ledger"] = settlement.id
        self.details["cost_usd"] = to_usd(self._cost)
        self.details["counted_by"] = settlement.counted_by
        for row in settlement.rows:
            if row.cost:
                gen_ai.cost_counter(row.org, row.desk, row.model).inc(row.cost / NANO)

    def log_fields(self) -> dict[str, Any]:
        """Return the fields of the call in the request log, under the names of its span."""
        return self._log_fields

    async def close(self, outcome: str = "ok") -> None:
        """Write the record. Later changes are ignored.

        Raises:
            Unavailable: the record cannot be written, so the answer must not be completed.
        """
        if not self._closed:
            with self.closing(outcome) as audit_line:
                await self._audit.put(audit_line)

    def closing(self, outcome: str = "ok") -> Closing:
        """Close the record; the block writes its audit line. Metrics are observed after the block."""
        self._closed = True
        now = time.perf_counter()
        model_called_at = self._called_at or self._planned_at
        self.details["ms"] = round((now - self._started_at) * 1000, 2)
        if self.attempts:
            self.details["attempts"] = self.attempts
        if self._first_token is not None:
            self.details["first_token_ms"] = round(self._first_token * 1000, 2)
        self._count_tokens(now - self._started_at - self._account.client)
        self._end_span()
        return Closing(self, outcome, None if model_called_at is None else now - model_called_at)

    def audit_line(self, outcome: str) -> str:
        """Return the audit line, with the exposure of the call if it has an arm."""
        line = self._audit.line(f"model.{self._operation}", f"model/{self._model or '?'}", outcome, self.details)
        if self._event is None:
            return line
        return self._event.line(line, outcome, self.details, self._cost, failed=self._failed)

    def observe_end(self, outcome: str, model_seconds: float | None, error: BaseException | None) -> None:
        """Observe the metrics of the call after the attempt to write its audit line."""
        if self._event is not None:
            self._event.written(committed=error is None)
        if isinstance(error, Unavailable):
            outcome, self._error_type = "failed", telemetry.error_type(error)
        seconds = time.perf_counter() - self._started_at
        self._metrics().observe(outcome, self._error_type, seconds, model_seconds)
        self._log_fields["upstream_ms"] = round(self._account.upstream * 1000, 2)
        self._log_fields["overhead_ms"] = round(self._account.record(seconds) * 1000, 2)

    async def fail(self, error: BaseException) -> None:
        """Write the record of a call that ends with an error."""
        if isinstance(error, DrwError):
            self.details["error"] = error.reason
        if not self._closed:
            self._error_type = telemetry.error_type(error)
            self._failed = call_outcome(error) == "failed" or isinstance(error, InvalidRequest | NotFound)
        await self.close(call_outcome(error))

    def _start_span(self, requested: str, engine: str, address: str) -> None:
        self._requested = requested
        self._called_at = time.perf_counter()
        if not telemetry.exports():
            return
        operation = OPERATIONS[self._operation]
        attributes = {
            gen_ai.OPERATION: operation,
            gen_ai.PROVIDER: gen_ai.provider(engine),
            gen_ai.REQUEST_MODEL: requested,
            **STREAMED.get(operation, {}),
            **gen_ai.server_attributes(address),
        }
        self._span = telemetry.AttachedSpan(f"{operation} {requested}", SpanKind.CLIENT, attributes)

    def _metrics(self) -> CallMetrics:
        return metrics(OPERATIONS[self._operation], self._provider, self._requested, self._model)

    def _count_tokens(self, seconds: float) -> None:
        model_metrics, details = self._metrics(), self.details
        if input_tokens := details.get("prompt_tokens"):
            model_metrics.input.observe(input_tokens)
        if output_tokens := details.get("completion_tokens"):
            model_metrics.output.observe(output_tokens)
            if output_tokens > 1 and self._first_token is not None and not self._error_type:
                model_metrics.per_token.observe(max(0.0, seconds - self._first_token) / (output_tokens - 1))

    def _end_span(self) -> None:
        attributes, details = self._log_fields, self.details
        if self._requested:
            attributes[gen_ai.REQUEST_MODEL] = self._requested
        if self._called_at is not None:
            attributes[gen_ai.RESPONSE_MODEL] = self._model
        if len(self.attempts) > 1:
            attributes["drw.attempts"] = len(self.attempts)
        for name, detail in TOKEN_ATTRIBUTES.items():
            if detail in details:
                attributes[name] = details[detail]
        if self._first_token is not None:
            attributes[gen_ai.FIRST_CHUNK] = round(self._first_token, 4)
        if self._cost:
            attributes[gen_ai.COST] = self._cost / NANO
        if self._event is not None and self._event.label:
            attributes[EXPERIMENT] = self._event.label
        if self._error_type:
            attributes[telemetry.ERROR_TYPE] = self._error_type
        if self._span is None:
            return
        if self._span.span.is_recording():
            self._span.span.set_attributes(attributes)
            if self._error_type:
                telemetry.mark_failed(self._span.span, self._error_type)
        self._span.end()


class Closing:
    """Context manager of `CallRecord.closing`. A class is faster than a generator."""

    __slots__ = ("_model_seconds", "_outcome", "_record")

    def __init__(self, record: CallRecord, outcome: str, model_seconds: float | None) -> None:
        self._record = record
        self._outcome = outcome
        self._model_seconds = model_seconds

    def __enter__(self) -> str:
        try:
            return self._record.audit_line(self._outcome)
        except BaseException as error:
            self._record.observe_end(self._outcome, self._model_seconds, error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._record.observe_end(self._outcome, self._model_seconds, error)


def call_outcome(error: BaseException) -> str:
    """Return the outcome of a call that ends with this error."""
    if isinstance(error, Killed):
        return "killed"
    if isinstance(error, ClientDisconnected | asyncio.CancelledError | GeneratorExit):
        return "client_gone"
    return "refused" if isinstance(error, REJECTED) else "failed"
