"""Pagination of OpenAI's lists: the query parameters `limit`, `order` and `after`."""

from __future__ import annotations

from starlette.requests import Request

from drw.kernel.errors import InvalidRequest
from drw.rag.documents.storage.files import Page


def parse_page(request: Request, *, default: int, maximum: int) -> Page:
    """Parse the pagination parameters of a request. The limit is one item higher, to detect whether a page follows.

    Raises:
        InvalidRequest: a parameter is invalid or not supported.
    """
    query = request.query_params
    try:
        limit = int(query.get("limit", default))
    except ValueError:
        limit = 0
    if not 1 <= limit <= maximum:
        raise InvalidRequest(f"limit is {query['limit']!r}; it can be 1 to {maximum}", param="limit")
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest(f"order is {order!r}; it can be asc or desc", param="order")
    if "before" in query:
        raise InvalidRequest("before is not supported; use after with the other order", param="before")
    return Page(limit + 1, order == "desc", query.get("after", ""))
