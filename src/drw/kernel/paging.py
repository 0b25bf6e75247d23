"""Pagination by row number, newest first: the token of a page is the number of the last row of the previous page."""

from __future__ import annotations

from drw.kernel.errors import InvalidRequest

MAX_NUMBER = (1 << 63) - 1


def number_of(page_token: str) -> int:
    """Return the number of a page token: the page contains rows with lower numbers.

    Raises:
        InvalidRequest: the token is invalid.
    """
    if not page_token:
        return MAX_NUMBER
    if not (page_token.isascii() and page_token.isdigit() and len(page_token) < 19):
        raise InvalidRequest("page_token is not a token of an earlier response", param="page_token")
    return int(page_token)
