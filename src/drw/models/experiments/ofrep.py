"""OpenFeature Remote Evaluation Protocol 0.3.0: experiments as flags of OpenFeature clients.

Source: https://github.com/open-feature/protocol, service/openapi.yaml. An experiment's name is the key of a flag, its
arms are the variants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from drw.api.models.v1.experiments_pb2 import Experiment
from drw.kernel.errors import InvalidRequest, NotFound, TooLarge
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.http.json_bodies import json_object
from drw.kernel.rpc.http.server import read_body
from drw.kernel.rpc.json_messages import json_value
from drw.models.experiments.design import assign
from drw.models.experiments.recording.recorder import Recorder
from drw.models.experiments.store import ExperimentStore, StoredExperiment

SCOPE = "experiments:record"
MAX_BODY_BYTES = 64 << 10
MAX_TARGETING_KEY = 512
Handler = Callable[[Request], Awaitable[Response]]


class EvaluationFailed(Exception):
    """A request that OFREP answers with 400 and an error code."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Evaluation:
    """The endpoints of OFREP."""

    def __init__(self, store: ExperimentStore, recorder: Recorder) -> None:
        self._store = store
        self._recorder = recorder

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/ofrep/v1/evaluate/flags", _answering(self._evaluate_all), methods=["POST"]),
            Route("/ofrep/v1/evaluate/flags/{key}", _answering(self._evaluate), methods=["POST"]),
        ]

    async def _evaluate(self, request: Request) -> Response:
        """Evaluate one flag, and record the exposure: the client asks when it needs the value."""
        caller, key = _caller(), request.path_params["key"]
        unit = await _targeting_key(request)
        try:
            stored = await self._store.get(caller, key)
        except NotFound as error:
            return _json({"key": key, "errorCode": "FLAG_NOT_FOUND", "errorDetails": error.message}, 404)
        arm = assign(stored.experiment, unit)
        if stored.running and arm is not None and not stored.experiment.alias:
            await self._recorder.exposures(stored, [unit])
        return _json(_evaluated(stored, arm))

    async def _evaluate_all(self, request: Request) -> Response:
        """Evaluate all flags of the desk. No exposure is recorded: the client caches values that it may never use."""
        caller = _caller()
        unit = await _targeting_key(request)
        flags = []
        after = ""
        while page := await self._store.page(caller, after, 1000):
            flags += [_evaluated(stored, assign(stored.experiment, unit)) for stored in page]
            after = page[-1].experiment.name
        body = orjson.dumps({"flags": flags})
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag})
        return Response(body, media_type="application/json", headers={"etag": etag})


def _caller() -> Principal:
    principal = context.caller()
    principal.require_scope(SCOPE)
    return principal


async def _targeting_key(request: Request) -> str:
    try:
        body = json_object(await read_body(request, MAX_BODY_BYTES))
    except TooLarge:
        raise
    except InvalidRequest as error:
        raise EvaluationFailed("PARSE_ERROR", error.message) from error
    evaluation_context = body.get("context")
    if not isinstance(evaluation_context, dict):
        raise EvaluationFailed("INVALID_CONTEXT", "context must be an object")
    key = evaluation_context.get("targetingKey")
    if key is None or key == "":
        raise EvaluationFailed("TARGETING_KEY_MISSING", "context.targetingKey must be the id of a unit, such as a user")
    if not isinstance(key, str) or len(key) > MAX_TARGETING_KEY:
        message = f"context.targetingKey must be a string of at most {MAX_TARGETING_KEY} characters"
        raise EvaluationFailed("INVALID_CONTEXT", message)
    return key


def _evaluated(stored: StoredExperiment, arm: int | None) -> dict[str, Any]:
    experiment = stored.experiment
    assigned = arm is not None and stored.running
    chosen = experiment.arms[(arm or 0) if assigned else 0]
    reason = "DISABLED" if not stored.running else "SPLIT" if assigned else "STATIC"
    return {
        "key": experiment.name,
        "value": json_value(chosen.value),
        "variant": chosen.name,
        "reason": reason,
        "metadata": {"inExperiment": assigned, "state": Experiment.State.Name(experiment.state)},
    }


def _answering(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except TooLarge:
            raise
        except (EvaluationFailed, InvalidRequest) as error:
            failed = error if isinstance(error, EvaluationFailed) else EvaluationFailed("GENERAL", error.message)
            body = {"errorCode": failed.code, "errorDetails": failed.details}
            if key := request.path_params.get("key"):
                body["key"] = key
            return _json(body, 400)

    return answer


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
