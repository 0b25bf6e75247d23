"""Lines of the output file and of the error file of a batch, in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from drw.kernel.errors import DrwError, http_body, http_error
from drw.kernel.observability import telemetry
from drw.models.serving.batches.queues.line_queue import Line

NOT_RUN = {
    "expired": ("batch_expired", "the request did not finish within the completion window of the batch"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before the request ran"),
}
"""Code and message of requests without a result, by the final state of the batch."""
INTERRUPTED = ("interrupted", "the process of the request ended during each of its attempts")
OUTPUT_FULL = ("output_limit_exceeded", "the results of the batch have reached their maximum size: split the batch")


def success(line: Line, body: bytes) -> bytes:
    """Return the line of the output file; `body` is the JSON of the response."""
    return _line(line, {"status_code": 200, "request_id": _request_id(line), "body": orjson.Fragment(body)}, None)


def failure(line: Line, error: DrwError) -> bytes:
    """Return the line of the error file for a request that was answered with an error."""
    response = {"status_code": http_error(error).status, "request_id": _request_id(line), "body": http_body(error)}
    return _line(line, response, None)


def not_answered(line: Line, code: str, message: str) -> bytes:
    """Return the line of the error file for a request that was never answered."""
    return _line(line, None, {"code": code, "message": message})


def not_run(batch: str, line: int, custom_id: str, ending: str) -> bytes:
    """Return the line of the error file for a request without a result, by the final state of its batch."""
    code, message = NOT_RUN.get(ending, INTERRUPTED)
    id_ = f"batch_req_{batch.removeprefix('batch_')}_{line}"
    return _dump(id_, custom_id, None, {"code": code, "message": message})


def _line(line: Line, response: Mapping[str, Any] | None, error: Mapping[str, str] | None) -> bytes:
    return _dump(line.id, line.custom_id, response, error)


def _dump(id_: str, custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, str] | None) -> bytes:
    return orjson.dumps({"id": id_, "custom_id": custom_id, "response": response, "error": error}) + b"\n"


def _request_id(line: Line) -> str:
    return telemetry.current_trace_id() or line.id
