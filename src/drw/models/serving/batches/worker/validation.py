"""Validation of the file of a batch: reads it line by line, and stores its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import orjson

from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.http.json_bodies import check_keys
from drw.models.serving.batches.batch import Batch
from drw.models.serving.batches.endpoints import BatchEndpoint
from drw.models.serving.batches.files import BatchFiles
from drw.models.serving.batches.permissions import CredentialEnded, PresentPermissions
from drw.models.serving.batches.queues.job_queue import JobQueue, NewLine
from drw.models.serving.settings import BatchSettings

FIELDS = {"custom_id", "method", "url", "body"}
MAX_CUSTOM_ID = 512
MAX_ERRORS = 100
"""Validation stops after so many errors."""
CHUNK_LINES, CHUNK_BYTES = 500, 1 << 20
"""Requests that are stored in one transaction."""


class InvalidLine(Exception):
    """A line is not a valid request."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Validator:
    """Validates batches."""

    def __init__(
        self,
        jobs: JobQueue,
        files: BatchFiles,
        endpoints: Mapping[str, BatchEndpoint],
        permissions: PresentPermissions,
        settings: BatchSettings,
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._endpoints = endpoints
        self._permissions = permissions
        self._settings = settings

    async def validate(self, job: Batch) -> None:
        """Store the requests of a batch and start it, or fail it with the errors of its file.

        Raises:
            LeaseLost: another worker has the batch, or it was cancelled.
            Unavailable: a service does not answer; the batch stays.
        """
        await self._jobs.start_lines(job)
        validation = _Validation(job, self._jobs, self._endpoints[job.endpoint], self._settings)
        try:
            principal = await self._permissions.principal(job)
            with context.acting_for(job.files_principal):
                async with aclosing(self._files.lines(job.input_file, self._settings.max_line_bytes)) as lines:
                    async for number, line in lines:
                        with context.acting_for(principal):
                            if not await validation.add(number, line):
                                break
        except NotFound:
            validation.error("file_not_found", "the input file was deleted before it was read", param="input_file_id")
        except CredentialEnded as error:
            validation.error("credential_ended", error.message)
        await validation.finish()


class _Validation:
    """Progress of the validation of one batch."""

    def __init__(self, job: Batch, jobs: JobQueue, endpoint: BatchEndpoint, settings: BatchSettings) -> None:
        self._job = job
        self._jobs = jobs
        self._endpoint = endpoint
        self._settings = settings
        self._errors: list[dict[str, Any]] = []
        self._waiting: list[NewLine] = []
        self._waiting_bytes = 0
        self._total = 0
        self._models: dict[str, str] = {}
        """The error of each model that was looked up; empty: it exists."""

    def error(self, code: str, message: str, *, line: int | None = None, param: str | None = None) -> None:
        """Add an error; `line` is its line in the file, from 1."""
        self._errors.append({"code": code, "line": line, "message": message, "param": param})

    async def add(self, number: int, line: bytes | None) -> bool:
        """Validate a line and store its request; return whether to read on."""
        self._total += 1
        if self._total > self._settings.max_requests:
            message = f"a batch has at most {self._settings.max_requests} requests"
            self.error("too_many_requests", message, line=number)
            return False
        try:
            custom_id, body, model = self._parse(line)
            await self._check_model(model)
        except InvalidLine as invalid:
            self.error(invalid.code, invalid.message, line=number, param=invalid.param)
        else:
            self._waiting.append((number, custom_id, body))
            self._waiting_bytes += len(body)
        if len(self._waiting) >= CHUNK_LINES or self._waiting_bytes >= CHUNK_BYTES:
            await self._store()
        elif not self._total % 50:
            await asyncio.sleep(0)  # other requests of this process go on
        return len(self._errors) < MAX_ERRORS

    async def finish(self) -> None:
        """Start the batch, or fail it."""
        await self._store()
        if not self._total and not self._errors:
            self.error("empty_file", "the input file has no requests", param="input_file_id")
        if self._errors:
            await self._jobs.fail(self._job, sorted(self._errors, key=lambda error: error["line"] or 0)[:MAX_ERRORS])
            return
        model = next(iter(self._models)) if len(self._models) == 1 else ""
        await self._jobs.start(self._job, self._total, model)

    async def _store(self) -> None:
        if self._waiting:
            lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
            for number, custom_id, _ in await self._jobs.add_lines(self._job, lines):
                message = f"the custom_id {custom_id[:80]!r} is used by an earlier line"
                self.error("duplicate_custom_id", message, line=number, param="custom_id")

    def _parse(self, line: bytes | None) -> tuple[str, bytes, str]:
        """Return the custom id, the body and the model of a request."""
        if line is None:
            raise InvalidLine("line_too_long", f"a line has at most {self._settings.max_line_bytes:,} bytes")
        try:
            request = orjson.loads(line)
            check_keys(line)
        except (orjson.JSONDecodeError, InvalidRequest):
            raise InvalidLine("invalid_json_line", "the line is not a JSON object without duplicate keys") from None
        if not isinstance(request, dict):
            raise InvalidLine("invalid_json_line", "the line is not a JSON object")
        for name in sorted(FIELDS ^ request.keys()):
            code = "missing_required_parameter" if name in FIELDS else "unknown_parameter"
            raise InvalidLine(code, f"a line has the fields {', '.join(sorted(FIELDS))}", name[:64])
        custom_id, body = request["custom_id"], request["body"]
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID or "\0" in custom_id:
            raise InvalidLine(
                "invalid_custom_id", f"custom_id is a text of 1 to {MAX_CUSTOM_ID} characters", "custom_id"
            )
        if request["method"] != "POST":
            raise InvalidLine("invalid_method", "method must be POST", "method")
        if request["url"] != self._job.endpoint:
            raise InvalidLine("mismatched_url", f"url must be the endpoint of the batch, {self._job.endpoint}", "url")
        if not isinstance(body, dict):
            raise InvalidLine("invalid_body", "body must be a JSON object", "body")
        model = self._endpoint.default_model if body.get("model") is None else body["model"]
        if not isinstance(model, str):
            raise InvalidLine("missing_required_parameter", "body.model must be the id of a model", "body.model")
        return custom_id, orjson.dumps(body), model

    async def _check_model(self, model: str) -> None:
        if model not in self._models:
            try:
                await self._endpoint.check_model(model)
            except (NotFound, InvalidRequest) as error:
                self._models[model] = error.message
            except Forbidden:  # a kill: the requests wait until it is lifted
                self._models[model] = ""
            else:
                self._models[model] = ""
        if problem := self._models[model]:
            raise InvalidLine("model_not_found", problem, "body.model")
