"""The list of OpenAI's and Anthropic's endpoints matches the routes of the services."""

from __future__ import annotations

import re
from typing import Any

from drw.generate.reference.openai import ENDPOINTS
from drw.models.serving.anthropic import endpoints as anthropic
from drw.models.serving.batches.api import BatchRoutes
from drw.models.serving.http import endpoints, text_endpoints
from drw.models.serving.http.model_list import ModelList
from drw.models.serving.responses_api.endpoints import ResponseEndpoints
from drw.rag.documents.api.files import FileRoutes
from drw.rag.documents.api.vector_stores import VectorStoreRoutes
from drw.rag.retrieval.openai import SearchRoute


def test_endpoint_list_matches_the_routes() -> None:
    dependency: Any = None
    audited = endpoints.AuditedEndpoints(dependency, dependency, dependency, 1)
    routes: list[Any] = [
        *endpoints.routes(dependency, dependency, audited),
        *text_endpoints.routes(dependency, dependency, dependency, audited),
        *ModelList(dependency).routes(),
        *anthropic.routes(dependency, audited, dependency, 1),
        *ResponseEndpoints(dependency, dependency).routes(audited),
        *BatchRoutes(dependency, dependency, dependency, {}, 1).routes(),
        *FileRoutes(dependency, dependency, dependency, dependency, 1).routes(),
        *VectorStoreRoutes(dependency, dependency, dependency, dependency, dependency).routes(),
        SearchRoute(dependency).route(),
    ]
    implemented = sorted(
        (verb, without_parameter_names(route.path)) for route in routes for verb in route.methods - {"HEAD"}
    )
    assert implemented == sorted((e.verb, without_parameter_names(e.path)) for e in ENDPOINTS)


def without_parameter_names(path: str) -> str:
    return re.sub(r"{[^}]*}", "{}", path)
