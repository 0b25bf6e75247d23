"""`GET /v1/models` and `GET /v1/models/{id}`, in OpenAI's format or, for Anthropic's clients, in Anthropic's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from drw.api.models.v1.discovery_pb2 import GetModelRequest, ListModelsRequest, Model
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import caller
from drw.models.serving.anthropic.format import VERSION_HEADER, use_anthropic_format
from drw.models.serving.http.endpoints import INVOKE

READ = "models:read"
DEFAULT_LIMIT, MAX_LIMIT = 20, 1000
"""Models of one page in Anthropic's API."""


class ModelList:
    """Serves the lists of models."""

    def __init__(self, discovery: DiscoveryClient) -> None:
        self._discovery = discovery

    async def list_models(self, request: Request) -> Response:
        """Return all models; for Anthropic's clients one page of them."""
        is_anthropic = _is_anthropic(request)
        caller().require_scope(READ, INVOKE)
        models = list((await self._discovery.list_models(ListModelsRequest())).models)
        if is_anthropic:
            return _json(_page(models, request))
        return _json({"object": "list", "data": [_openai_object(model) for model in models]})

    async def get_model(self, request: Request) -> Response:
        """Return one model."""
        is_anthropic = _is_anthropic(request)
        caller().require_scope(READ, INVOKE)
        model = await self._discovery.get_model(GetModelRequest(id=request.path_params["id"]))
        return _json(_anthropic_object(model) if is_anthropic else _openai_object(model))

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{id:path}", self.get_model, methods=["GET"]),
        ]


def _is_anthropic(request: Request) -> bool:
    """Return whether a client of Anthropic's API asks; its errors then have Anthropic's format."""
    if VERSION_HEADER.decode() not in request.headers:
        return False
    use_anthropic_format(request.scope)
    return True


def _openai_object(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}


def _anthropic_object(model: Model) -> dict[str, Any]:
    created = datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = {"max_input_tokens": model.context_length or None, "max_tokens": model.context_length or None}
    head = {"id": model.id, "type": "model", "display_name": model.id, "created_at": created}
    return head | {"lifecycle": "active", **limits}


def _page(models: list[Model], request: Request) -> dict[str, Any]:
    """Return a page as the query parameters `limit`, `after_id` and `before_id` select it."""
    limit = _limit(request.query_params.get("limit", ""))
    after, before = request.query_params.get("after_id"), request.query_params.get("before_id")
    if after and before:
        raise InvalidRequest("give after_id or before_id, not both", param="before_id")
    if before:
        rest = models[: _index(models, before, "before_id")]
        page = rest[-limit:]
    else:
        rest = models[_index(models, after, "after_id") + 1 :] if after else models
        page = rest[:limit]
    ids = [model.id for model in page]
    bounds = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return {"data": [_anthropic_object(model) for model in page], "has_more": len(rest) > len(page), **bounds}


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be a number from 1 to {MAX_LIMIT}", param="limit")
    return int(text)


def _index(models: list[Model], id_: str, param: str) -> int:
    index = next((i for i, model in enumerate(models) if model.id == id_), None)
    if index is None:
        raise InvalidRequest(f"{param} is {id_[:128]!r}, which is not the id of a model", param=param)
    return index


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
