"""The record of one call: an audit record on every way out, a span, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from opentelemetry.trace import SpanKind

from drw.billing.amounts import NANO, to_usd
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
from drw.kernel.storage.audit import AuditWriter, digest
from drw.killswitch.watch import Killed
from drw.models.serving.observability import content_capture
from drw.models.serving.observability.metrics import CallMetrics, metrics
from drw.models.serving.openai.responses import Answer

OPERATIONS = {"chat": gen_ai.CHAT, "completion": gen_ai.COMPLETION, "embedding": gen_ai.EMBEDDINGS}
"""What the audit log calls an operation, and what the conventions do."""
TOKEN_ATTRIBUTES = {gen_ai.INPUT_TOKENS: "prompt_tokens", gen_ai.OUTPUT_TOKENS: "completion_tokens"}
STREAMED = dict.fromkeys((gen_ai.CHAT, gen_ai.COMPLETION), {gen_ai.REQUEST_STREAM: True})
"""Engines are always asked for a stream, whatever the caller asked for."""
REFUSED = (InvalidRequest, NotFound, Forbidden, RateLimited)


class CallRecord:
    """What is written about one call; `close` or `fail` it before the answer ends.

    Outcomes: `ok`; `refused`, the request was at fault; `failed`, we or the engine were;
    `client_gone`, the caller left before the end; `killed`, a kill switch ended it.
    """

    def __init__(self, audit: AuditWriter, operation: str, request: bytes) -> None:
        self._audit = audit
        self._operation = operation
        self._began_at = time.perf_counter()
        self._account = overhead.begin()
        self._planned_at: float | None = None
        self._called_at: float | None = None
        self._first_token: float | None = None
        self._closed = False
        self._error_type = ""
        self._cost = 0
        self._requested = self._model = self._provider = ""
        self._span: telemetry.AttachedSpan | None = None
        self.request = request
        self.attempts: list[dict[str, Any]] = []
        """Each attempt at an answer, when it is over: `model`, `replica`, `outcome`, `ms`, and its tokens."""
        self.models: set[str] = set()
        """The names by which a kill can stop the call: the requested model, and the one that answers."""
        self.details: dict[str, Any] = {"request_sha256": digest(request)}
        self._log_fields: dict[str, Any] = {}

    def plan(self, requested: str, model: str, engine: str) -> None:
        """Note the model that is called first; until then failures count as its own."""
        self._planned_at = time.perf_counter()
        self._requested, self._model, self._provider = requested, model, gen_ai.provider(engine)

    def served_by(
        self, model: str, engine: str, upstream_model: str, *, requested: str = "", address: str = ""
    ) -> None:
        """Note the model that answers; where several try, the last one counts.

        `requested` is the name that the caller used, where the registry has it under another one.
        """
        if self._called_at is None:
            self._begin(requested or model, engine, address)
        self._model, self._provider = model, gen_ai.provider(engine)
        self.models = {self._requested, model}
        self.details |= {"model": model, "engine": engine, "upstream_model": upstream_model}

    def attempt(self, entry: dict[str, Any]) -> None:
        """Note how an attempt ended."""
        self.attempts.append(entry)

    def sent(self, body: Mapping[str, Any]) -> None:
        """Note the request that the model gets."""
        if self._span and self._span.span.is_recording():
            self._span.span.set_attributes(gen_ai.request_attributes(body))
            if limit := content_capture.allowed():
                self._span.span.set_attribute(gen_ai.INPUT_MESSAGES, content_capture.input_messages(body, limit))

    def token(self) -> None:
        """Note a token of the answer; the first one counts as the time to first token."""
        if self._first_token is None:
            self._first_token = time.perf_counter() - self._began_at
            self._metrics().first_token.observe(self._first_token)

    def answered(self, text: str | bytes, usage: dict[str, Any] | None, finish_reason: str = "") -> None:
        """Note the answer so far: its hash, its tokens, its finish reason."""
        self.details["answer_sha256"] = digest(text)
        if finish_reason:
            self.details["finish_reason"] = finish_reason
        for kind in ("prompt_tokens", "completion_tokens"):
            if usage and (count := usage.get(kind)):
                self.details[kind] = count

    def show_answer(self, answer: Answer) -> None:
        """Put the answer so far on the span: its id and finish reasons; its text only where content capture is on."""
        if not (self._span and self._span.span.is_recording()):
            return
        span = self._span.span
        span.set_attribute(gen_ai.RESPONSE_ID, answer.id)
        span.set_attribute(gen_ai.FINISH_REASONS, answer.finish_reasons)
        if limit := content_capture.allowed():
            messages = zip(answer.messages(), answer.finish_reasons, strict=True)
            span.set_attribute(gen_ai.OUTPUT_MESSAGES, content_capture.output_messages(messages, limit))

    def charge(self, settlement: Settlement) -> None:
        """Note what the call costs."""
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

    async def close(self, ending: str = "ok") -> None:
        """Write the record; what is reported of the call afterwards is not in it.

        Raises:
            Unavailable: it cannot be written, so the answer must not be given as whole.
        """
        if not self._closed:
            with self.closing(ending) as line:
                await self._audit.put(line)

    def closing(self, ending: str = "ok") -> Closing:
        """Close the record; give its audit line, which the block writes. The metrics say whether it could."""
        self._closed = True
        now = time.perf_counter()
        since = self._called_at or self._planned_at
        self.details["ms"] = round((now - self._began_at) * 1000, 2)
        if self.attempts:
            self.details["attempts"] = self.attempts
        if self._first_token is not None:
            self.details["first_token_ms"] = round(self._first_token * 1000, 2)
        self._count_tokens(now - self._began_at - self._account.client)
        self._end_span()
        return Closing(self, ending, None if since is None else now - since)

    def line(self, ending: str) -> str:
        """Return the audit line."""
        return self._audit.line(f"model.{self._operation}", f"model/{self._model or '?'}", ending, self.details)

    def ended(self, ending: str, called: float | None, error: BaseException | None) -> None:
        """Observe the end of the call, after its line was written, or could not be."""
        if isinstance(error, Unavailable):
            ending, self._error_type = "failed", telemetry.error_type(error)
        seconds = time.perf_counter() - self._began_at
        self._metrics().ended(ending, self._error_type, seconds, called)
        self._log_fields["upstream_ms"] = round(self._account.upstream * 1000, 2)
        self._log_fields["overhead_ms"] = round(self._account.record(seconds) * 1000, 2)

    async def fail(self, error: BaseException) -> None:
        """Write the record of a call that ends with this error."""
        if isinstance(error, DrwError):
            self.details["error"] = error.reason
        if not self._closed:
            self._error_type = telemetry.error_type(error)
        await self.close(outcome(error))

    def _begin(self, requested: str, engine: str, address: str) -> None:
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
        if read := details.get("prompt_tokens"):
            model_metrics.input.observe(read)
        if written := details.get("completion_tokens"):
            model_metrics.output.observe(written)
            if written > 1 and self._first_token is not None and not self._error_type:
                model_metrics.per_token.observe(max(0.0, seconds - self._first_token) / (written - 1))

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
    """The end of a record. A class and not a generator, since every call has one."""

    __slots__ = ("_called", "_ending", "_record")

    def __init__(self, record: CallRecord, ending: str, called: float | None) -> None:
        self._record = record
        self._ending = ending
        self._called = called

    def __enter__(self) -> str:
        try:
            return self._record.line(self._ending)
        except BaseException as error:
            self._record.ended(self._ending, self._called, error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._record.ended(self._ending, self._called, error)


def outcome(error: BaseException) -> str:
    """Return how a call ended that ended with this error."""
    if isinstance(error, Killed):
        return "killed"
    if isinstance(error, ClientDisconnected | asyncio.CancelledError | GeneratorExit):
        return "client_gone"
    return "refused" if isinstance(error, REFUSED) else "failed"
