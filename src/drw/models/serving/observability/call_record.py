"""The trail of one call: an audit record on every way out, a span, the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opentelemetry.trace import SpanKind

from drw.kernel.errors import DrwError, Forbidden, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.observability import gen_ai, overhead, telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.sql import DatabaseError
from drw.killswitch.watch import Killed
from drw.models.serving.observability import content_capture
from drw.models.serving.observability.metrics import CallMetrics, measures
from drw.models.serving.openai.responses import Answer

OPERATIONS = {"chat": gen_ai.CHAT, "completion": gen_ai.COMPLETION, "embedding": gen_ai.EMBEDDINGS}
"""What the audit log calls an operation, and what the conventions do."""
TOLD = {gen_ai.INPUT_TOKENS: "prompt_tokens", gen_ai.OUTPUT_TOKENS: "completion_tokens"}
STREAMED = dict.fromkeys((gen_ai.CHAT, gen_ai.COMPLETION), {gen_ai.REQUEST_STREAM: True})
"""Engines are always asked for a stream, whatever the caller asked for."""
NANO = 1_000_000_000
Pay = Callable[[str], Awaitable[object]]
"""Writes what a call is charged, and its record with it."""
REFUSED = (InvalidRequest, NotFound, Forbidden, RateLimited)


class ClientGone(Exception):
    """The caller does not wait for the answer any more."""


class CallRecord:
    """What is written about one call; `close` or `fail` it before the answer ends.

    Outcomes: `ok`; `refused`, the request was at fault; `failed`, we or the engine were;
    `client_gone`, the caller left before the end; `killed`, a kill switch ended it.
    """

    def __init__(self, audit: AuditWriter, operation: str, request: bytes) -> None:
        self._audit = audit
        self._operation = operation
        self._began = time.perf_counter()
        self._account = overhead.begin()
        self._meant: float | None = None
        self._called: float | None = None
        self._first_token: float | None = None
        self._closed = False
        self._error_type = ""
        self._cost = 0
        self._asked = self._model = self._provider = ""
        self._span: telemetry.AttachedSpan | None = None
        self.request = request
        self.attempts: list[dict[str, Any]] = []
        """Each attempt at an answer, when it is over: `model`, `replica`, `outcome`, `ms`, and its tokens."""
        self.models: set[str] = set()
        """By which names a kill may mean the model: as asked for, and as served."""
        self.details: dict[str, Any] = {"request_sha256": digest(request)}
        self._brief: dict[str, Any] = {}

    def means(self, asked: str, model: str, engine: str) -> None:
        """Say which model is to be asked first; until one is called, failures count as its own."""
        self._meant = time.perf_counter()
        self._asked, self._model, self._provider = asked, model, gen_ai.provider(engine)

    def served_by(self, model: str, engine: str, upstream_model: str, *, asked: str = "", at: str = "") -> None:
        """Say which model gives the answer; where several try, the last one counts.

        `asked` is the name that the caller used for it, where the registry has it under another; `at` is the
        engine's address.
        """
        if self._called is None:
            self._begin(asked or model, engine, at)
        self._model, self._provider = model, gen_ai.provider(engine)
        self.models = {self._asked, model}
        self.details |= {"model": model, "engine": engine, "upstream_model": upstream_model}

    def attempt(self, entry: dict[str, Any]) -> None:
        """Say how an attempt ended."""
        self.attempts.append(entry)

    def sends(self, body: Mapping[str, Any]) -> None:
        """Say what the model is asked."""
        if self._span and self._span.span.is_recording():
            self._span.span.set_attributes(gen_ai.request_attributes(body))
            if most := content_capture.allowed():
                self._span.span.set_attribute(gen_ai.INPUT_MESSAGES, content_capture.asked(body, most))

    def token(self) -> None:
        """Say that the answer goes on; only the first time counts."""
        if self._first_token is None:
            self._first_token = time.perf_counter() - self._began
            self._measures().first_token.observe(self._first_token)

    def answered(self, text: str | bytes, usage: dict[str, Any] | None, finish_reason: str = "") -> None:
        """Say what the answer is so far."""
        self.details["answer_sha256"] = digest(text)
        if finish_reason:
            self.details["finish_reason"] = finish_reason
        for kind in ("prompt_tokens", "completion_tokens"):
            if usage and (count := usage.get(kind)):
                self.details[kind] = count

    def shows(self, answer: Answer) -> None:
        """Put the answer so far on the span: its id and why it ended; its words only where they are allowed."""
        if not (self._span and self._span.span.is_recording()):
            return
        span = self._span.span
        span.set_attribute(gen_ai.RESPONSE_ID, answer.id)
        span.set_attribute(gen_ai.FINISH_REASONS, answer.finish_reasons)
        if most := content_capture.allowed():
            said = zip(answer.messages(), answer.finish_reasons, strict=True)
            span.set_attribute(gen_ai.OUTPUT_MESSAGES, content_capture.answered(said, most))

    def cost(self, nano_dollars: int, model: str = "") -> None:
        """Say what the call has cost at a model, in billionths of a US dollar; what is said again adds up."""
        self._cost += nano_dollars
        who = context.caller_or_none()
        spent = gen_ai.cost_counter(who.org if who else "", who.desk if who else "", model or self._model)
        spent.inc(nano_dollars / NANO)

    def brief(self) -> dict[str, Any]:
        """Return what the line of log shows of the call, under the names that its span has."""
        return self._brief

    async def close(self, ending: str = "ok", pay: Pay | None = None) -> None:
        """Write the record; what is said about the call afterwards is not in it.

        With `pay` it is written together with what the call is charged.

        Raises:
            Unavailable: it cannot be written, so the answer must not be given as whole.
        """
        if self._closed:
            return
        self._closed = True
        now = time.perf_counter()
        since = self._called or self._meant
        called = None if since is None else now - since
        self.details["ms"] = round((now - self._began) * 1000, 2)
        if self.attempts:
            self.details["attempts"] = self.attempts
        if self._first_token is not None:
            self.details["first_token_ms"] = round(self._first_token * 1000, 2)
        self._count_tokens(now - self._began - self._account.client)
        self._end_span()
        try:
            await self._write(ending, pay)
        except Unavailable as error:
            ending, self._error_type = "failed", telemetry.error_type(error)
            raise
        finally:
            seconds = time.perf_counter() - self._began
            self._measures().ended(ending, self._error_type, seconds, called)
            self._brief["upstream_ms"] = round(self._account.upstream * 1000, 2)
            self._brief["overhead_ms"] = round(self._account.close(seconds) * 1000, 2)

    async def fail(self, error: BaseException) -> None:
        """Write the record of a call that ends with this error."""
        if isinstance(error, DrwError):
            self.details["error"] = error.reason
        if not self._closed:
            self._error_type = telemetry.error_type(error)
        await self.close(outcome(error))

    def _begin(self, asked: str, engine: str, at: str) -> None:
        self._asked = asked
        self._called = time.perf_counter()
        if not telemetry.exports():
            return
        operation = OPERATIONS[self._operation]
        attributes = {
            gen_ai.OPERATION: operation,
            gen_ai.PROVIDER: gen_ai.provider(engine),
            gen_ai.REQUEST_MODEL: asked,
            **STREAMED.get(operation, {}),
            **gen_ai.server(at),
        }
        self._span = telemetry.AttachedSpan(f"{operation} {asked}", SpanKind.CLIENT, attributes)

    def _measures(self) -> CallMetrics:
        return measures(OPERATIONS[self._operation], self._provider, self._asked, self._model)

    def _count_tokens(self, seconds: float) -> None:
        found, details = self._measures(), self.details
        if read := details.get("prompt_tokens"):
            found.input.observe(read)
        if written := details.get("completion_tokens"):
            found.output.observe(written)
            if written > 1 and self._first_token is not None and not self._error_type:
                found.per_token.observe(max(0.0, seconds - self._first_token) / (written - 1))

    def _end_span(self) -> None:
        said, details = self._brief, self.details
        if self._asked:
            said[gen_ai.REQUEST_MODEL] = self._asked
        if self._called is not None:
            said[gen_ai.RESPONSE_MODEL] = self._model
        if len(self.attempts) > 1:
            said["drw.attempts"] = len(self.attempts)
        for name, detail in TOLD.items():
            if detail in details:
                said[name] = details[detail]
        if self._first_token is not None:
            said[gen_ai.FIRST_CHUNK] = round(self._first_token, 4)
        if self._cost:
            said[gen_ai.COST] = self._cost / NANO
        if self._error_type:
            said[telemetry.ERROR_TYPE] = self._error_type
        if self._span is None:
            return
        if self._span.span.is_recording():
            self._span.span.set_attributes(said)
            if self._error_type:
                telemetry.failed(self._span.span, self._error_type)
        self._span.end()

    async def _write(self, ending: str, pay: Pay | None) -> None:
        action, resource = f"model.{self._operation}", f"model/{self._model or '?'}"
        try:
            if pay:
                await pay(self._audit.line(action, resource, ending, self.details))
            else:
                await self._audit.record(action, resource, outcome=ending, details=self.details)
        except DatabaseError as error:
            raise Unavailable("the audit record cannot be written, so there is no answer") from error


def outcome(error: BaseException) -> str:
    """Return how a call ended that ended with this error."""
    if isinstance(error, Killed):
        return "killed"
    if isinstance(error, ClientGone | asyncio.CancelledError | GeneratorExit):
        return "client_gone"
    return "refused" if isinstance(error, REFUSED) else "failed"
