"""Exposures of questions that no model answered: serving records those of the others with its call."""

from __future__ import annotations

from typing import Any

from drw.kernel.errors import DrwError, Forbidden, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.storage.audit import AuditWriter
from drw.routing.experiments.exposures import Assigned, Assignment

REJECTED = (InvalidRequest, NotFound, Forbidden, RateLimited)
"""Errors that are not due to an arm."""


async def record_unanswered(
    audit: AuditWriter, assigned: Assigned | None, collection: str, outcome: str, details: dict[str, Any]
) -> None:
    """Write the record of an answer that no model wrote, with the exposure of the question.

    Raises:
        Unavailable: the record cannot be written.
    """
    line = audit.line("collection.answer", collection, outcome, details)
    assignment = assigned.assignment if assigned else None
    if assignment is None:
        await audit.put(line)
        return
    await _put(audit, assignment, assignment.line(line, outcome, details, 0, failed=False))


async def record_failed_search(
    audit: AuditWriter, assigned: Assigned | None, collection: str, details: dict[str, Any], error: DrwError
) -> None:
    """Write the exposure of a question whose search failed, as an error of its arm; raise nothing.

    `details` has the milliseconds until the failure.
    """
    if assigned is None or assigned.assignment is None or isinstance(error, REJECTED):
        return
    assignment = assigned.assignment
    line = audit.line("collection.ask", collection, "failed", details | assignment.details())
    try:
        await _put(audit, assignment, assignment.line(line, "failed", details, 0, failed=True))
    except Unavailable:  # it counts as lost
        return


async def _put(audit: AuditWriter, assignment: Assignment, line: str) -> None:
    try:
        await audit.put(line)
    except BaseException:
        assignment.written(committed=False)
        raise
    assignment.written(committed=True)
