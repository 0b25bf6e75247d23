"""The trail of one call: an audit record on every way out, and the metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
from prometheus_client import Counter, Histogram

from drw.kernel.audit import AuditWriter, digest
from drw.kernel.errors import DrwError, Forbidden, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.kills import Killed

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds", "From the request to its first token.", ["model"], buckets=SECONDS
)
DURATION = Histogram(
    "gen_ai_server_request_duration_seconds",
    "From the request to the end of its answer.",
    ["operation", "model", "outcome"],
    buckets=SECONDS,
)
TOKENS = Counter("gen_ai_tokens", "Tokens read and written.", ["model", "type"])

LOGGED = ("model", "prompt_tokens", "completion_tokens", "finish_reason", "first_token_ms")
REFUSED = (InvalidRequest, NotFound, Forbidden, RateLimited)


class ClientGone(Exception):
    """The caller does not wait for the answer any more."""


class Record:
    """What is written about one call; `close` or `fail` it before the answer ends.

    Outcomes: `ok`; `refused`, the request was at fault; `failed`, we or the engine were;
    `client_gone`, the caller left before the end; `killed`, a kill switch ended it.
    """

    def __init__(self, audit: AuditWriter, operation: str, request: bytes) -> None:
        self._audit = audit
        self._operation = operation
        self._began = time.perf_counter()
        self._first_token: float | None = None
        self._closed = False
        self._model = ""
        self.request = request
        self.models: set[str] = set()
        """By which names a kill may mean the model: as asked for, and as served."""
        self.details: dict[str, Any] = {"request_sha256": digest(request)}

    def served_by(self, model: str, engine: str, upstream_model: str) -> None:
        """Say which model the call is for, once it is known."""
        self._model = model
        self.models.add(model)
        self.details |= {"model": model, "engine": engine, "upstream_model": upstream_model}

    def token(self) -> None:
        """Say that the answer goes on; only the first time counts."""
        if self._first_token is None:
            self._first_token = time.perf_counter() - self._began
            FIRST_TOKEN.labels(self._model).observe(self._first_token)

    def answered(self, text: str | bytes, usage: dict[str, Any] | None, finish_reason: str = "") -> None:
        """Say what the answer is so far."""
        self.details["answer_sha256"] = digest(text)
        if finish_reason:
            self.details["finish_reason"] = finish_reason
        for kind in ("prompt_tokens", "completion_tokens"):
            if usage and (count := usage.get(kind)):
                self.details[kind] = count

    def brief(self) -> dict[str, Any]:
        """Return what the line of log shows of the call."""
        return {name: self.details[name] for name in LOGGED if name in self.details}

    async def close(self, outcome: str = "ok") -> None:
        """Write the record; what is said about the call afterwards is not in it.

        Raises:
            Unavailable: it cannot be written, so the answer must not be given as whole.
        """
        if self._closed:
            return
        self._closed = True
        seconds = time.perf_counter() - self._began
        self.details["ms"] = round(seconds * 1000, 2)
        if self._first_token is not None:
            self.details["first_token_ms"] = round(self._first_token * 1000, 2)
        DURATION.labels(self._operation, self._model, outcome).observe(seconds)
        for kind in ("prompt_tokens", "completion_tokens"):
            if count := self.details.get(kind):
                TOKENS.labels(self._model, kind.removesuffix("_tokens")).inc(count)
        try:
            resource = f"model/{self._model or '?'}"
            await self._audit.record(f"model.{self._operation}", resource, outcome=outcome, details=self.details)
        except psycopg.Error as error:
            raise Unavailable("the audit record cannot be written, so there is no answer") from error

    async def fail(self, error: BaseException) -> None:
        """Write the record of a call that ends with this error."""
        if isinstance(error, DrwError):
            self.details["error"] = error.reason
        await self.close(_outcome(error))


def _outcome(error: BaseException) -> str:
    if isinstance(error, Killed):
        return "killed"
    if isinstance(error, ClientGone | asyncio.CancelledError | GeneratorExit):
        return "client_gone"
    return "refused" if isinstance(error, REFUSED) else "failed"
