"""Comparison of shadow calls: sums over the copies that the candidate of a rollout answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drw.api.models.v1.experiments_pb2 import ShadowCalls
from drw.kernel.storage.database import Connection

SUMS = ("compared", "failed", "dropped", "same_text", "same_finish_reason", "length_ratio", "ms", "primary_ms")


async def add(connection: Connection, experiment: int, calls: Iterable[dict[str, Any]]) -> None:
    """Add comparisons of shadow calls to the sums of a rollout."""
    totals = dict.fromkeys(SUMS, 0.0)
    for call in calls:
        for name in SUMS:
            totals[name] += call.get(name, 0)
    await connection.execute(
        """
        insert into shadow (experiment, compared, failed, dropped, same_text, same_finish_reason, length_ratio, ms,
            primary_ms)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (experiment) do update set compared = shadow.compared + excluded.compared,
            failed = shadow.failed + excluded.failed, dropped = shadow.dropped + excluded.dropped,
            same_text = shadow.same_text + excluded.same_text,
            same_finish_reason = shadow.same_finish_reason + excluded.same_finish_reason,
            length_ratio = shadow.length_ratio + excluded.length_ratio, ms = shadow.ms + excluded.ms,
            primary_ms = shadow.primary_ms + excluded.primary_ms
        """,
        (experiment, *totals.values()),
    )


async def read(connection: Connection, experiment: int) -> ShadowCalls:
    """Return the comparison of all shadow calls of a rollout."""
    cursor = await connection.execute("select * from shadow where experiment = %s", (experiment,))
    if (row := await cursor.fetchone()) is None:
        return ShadowCalls()
    counts = {name: row[name] for name in ("compared", "failed", "dropped", "same_text", "same_finish_reason")}
    compared = max(1, row["compared"])
    means = {name: row[name] / compared for name in ("length_ratio", "ms", "primary_ms")}
    return ShadowCalls(
        **counts,
        length_ratio=means["length_ratio"],
        mean_ms=means["ms"],
        primary_mean_ms=means["primary_ms"],
    )
