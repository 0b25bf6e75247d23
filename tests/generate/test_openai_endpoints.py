"""The list of OpenAI's endpoints is that of the routes in the services' code."""

from __future__ import annotations

import re
from typing import Any

from drw.generate.openai import ENDPOINTS
from drw.models.serving.http import endpoints
from drw.rag.documents.api.files import FileRoutes
from drw.rag.documents.api.vector_stores import VectorStoreRoutes
from drw.rag.retrieval.openai import SearchRoute


def test_the_list_has_every_route_and_no_other() -> None:
    nothing: Any = None
    routes: list[Any] = [
        *endpoints.routes(nothing, nothing, nothing, nothing, nothing, nothing, 1),
        *FileRoutes(nothing, nothing, nothing, nothing, 1).routes(),
        *VectorStoreRoutes(nothing, nothing, nothing, nothing, nothing).routes(),
        SearchRoute(nothing).route(),
    ]
    written = sorted((verb, unnamed(route.path)) for route in routes for verb in route.methods - {"HEAD"})
    assert written == sorted((e.verb, unnamed(e.path)) for e in ENDPOINTS)


def unnamed(path: str) -> str:
    return re.sub(r"{[^}]*}", "{}", path)
