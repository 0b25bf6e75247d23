"""The list of OpenAI endpoints matches the routes of the services."""

from __future__ import annotations

import re
from typing import Any

from drw.generate.reference.openai import ENDPOINTS
from drw.models.serving.http import endpoints
from drw.rag.documents.api.files import FileRoutes
from drw.rag.documents.api.vector_stores import VectorStoreRoutes
from drw.rag.retrieval.openai import SearchRoute


def test_endpoint_list_matches_the_routes() -> None:
    dependency: Any = None
    routes: list[Any] = [
        *endpoints.routes(dependency, dependency, dependency, dependency, dependency, dependency, 1),
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
