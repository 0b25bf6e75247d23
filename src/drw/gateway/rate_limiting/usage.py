"""Usage of pass-through requests: records each request once in the ledger, the audit log and the counters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Price as PriceMessage
from drw.api.gateway.v1.rate_limiting_pb2 import ReportUsageRequest, Usage
from drw.billing.amounts import FREE, Price, from_usd, to_usd
from drw.billing.counters.client import Counters
from drw.billing.ledger.ledger import Ledger, add
from drw.billing.ledger.rows import Row
from drw.billing.reservations.reaper import PASS_THROUGH, mark_posted
from drw.billing.subjects import caller_subjects, model_subject
from drw.gateway.rate_limiting.exhausted_subjects import ExhaustedSubjects
from drw.gateway.rate_limiting.metrics import record_usage
from drw.gateway.rate_limiting.store import LimitStore
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.observability.telemetry import continuing, incoming_context
from drw.kernel.rpc.context import MAX_ID, Principal, acting_for
from drw.kernel.storage.audit import AuditWriter

MAX_USAGES = 1000
PLACEHOLDER_SPAN_ID = "0000000000000001"
"""Replaces the span id in the trace context, since the access log contains only the trace id."""
MAX_TEXT = MAX_ID
MAX_TOKENS = 100_000_000


class UsageReports:
    """Records the usage reports of data planes."""

    def __init__(
        self,
        store: LimitStore,
        ledger: Ledger,
        counters: Counters,
        exhausted: ExhaustedSubjects,
        audit: AuditWriter,
        uncounted_tokens: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._counters = counters
        self._exhausted = exhausted
        self._audit = audit
        self._uncounted_tokens = uncounted_tokens

    async def record(self, request: ReportUsageRequest) -> None:
        """Record the new usages of a report.

        Raises:
            InvalidRequest: a usage is invalid; nothing of the report is recorded.
            Unavailable: the database does not answer; the data plane reports the usage again.
        """
        _check_report(request)
        read_ms = self._counters.now_ms()
        prices = await self._store.prices()
        rows = {row.id: (row, usage) for usage in request.usages for row in [self._ledger_row(usage, prices)]}
        async with self._store.database.transaction() as connection:
            new = await add(connection, [row for row, _ in rows.values()])
            lines = [self._audit_line(request.data_plane, *rows[id]) for id in sorted(new)]
            await self._audit.write(lines, connection)
        priced = {price.model for price in prices}
        for id in new:
            record_usage(rows[id][0], priced)
        await self._update_counters([rows[id][0] for id in new], read_ms)

    async def _update_counters(self, rows: Sequence[Row], read_ms: float) -> None:
        """Update the counters and block exhausted subjects; the ledger row is authoritative."""
        try:
            await self._counters.post((row.posting() for row in rows), read_ms)
            await mark_posted(self._counters, self._ledger, rows)
        except Unavailable:
            pass  # `reaper.post` posts the rows later
        subjects = {s for row in rows for s in (*caller_subjects(row.org, row.desk, row.key), model_subject(row.model))}
        if subjects:
            await self._exhausted.renew(subjects)

    def _audit_line(self, data_plane: str, row: Row, usage: Usage) -> str:
        # The trace of the request itself, not of the report.
        trace = incoming_context({"traceparent": f"00-{usage.trace_id}-{PLACEHOLDER_SPAN_ID}-00"})
        with acting_for(Principal(row.org, row.desk, row.key)), continuing(trace):
            details = _audit_details(data_plane, usage, row)
            return self._audit.line("model.pass", f"model/{row.model}", row.outcome, details)

    def _ledger_row(self, usage: Usage, prices: Sequence[PriceMessage]) -> Row:
        at = min(usage.at.ToDatetime(UTC), datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC))
        # No status with an upstream: the client disconnected before the response, and the upstream may have read the
        # whole prompt.
        is_charged = 200 <= usage.status < 300 or (not usage.status and bool(usage.upstream))
        prompt = usage.prompt_tokens
        completion = usage.completion_tokens
        if not usage.counted:
            # Upper bounds: one prompt token per byte, and the completion tokens of the settings.
            prompt = min(usage.bytes_in, MAX_TOKENS) if is_charged else 0
            completion = self._uncounted_tokens if is_charged else 0
        price = _price_at(prices, usage.model, at)
        return Row(
            id=f"pass_{usage.request_id}",
            at=at,
            org=usage.org,
            desk=usage.desk,
            key=usage.key,
            model=usage.model,
            upstream=usage.upstream,
            route=PASS_THROUGH,
            prompt_tokens=prompt,
            completion_tokens=completion,
            prompt_price=price.prompt,
            completion_price=price.completion,
            cost=price.cost(prompt, completion),
            outcome=("ok" if usage.counted else "uncounted") if is_charged else "failed",
            counted_by="engine" if usage.counted else ("rule" if is_charged else "nothing"),
            posted=False,
        )


def _check_report(request: ReportUsageRequest) -> None:
    if len(request.usages) > MAX_USAGES:
        raise InvalidRequest(f"{len(request.usages)} usages in one report; at most {MAX_USAGES}", param="usages")
    for index, usage in enumerate(request.usages):
        for name in ("request_id", "org", "desk", "key", "model"):
            if not 0 < len(getattr(usage, name)) <= MAX_TEXT:
                raise InvalidRequest(
                    f"usages[{index}].{name} has {len(getattr(usage, name))} characters; it can have 1 to {MAX_TEXT}",
                    param="usages",
                )
        for name in ("prompt_tokens", "completion_tokens"):
            if not 0 <= getattr(usage, name) <= MAX_TOKENS:
                raise InvalidRequest(
                    f"usages[{index}].{name} is {getattr(usage, name)}; it can be 0 to {MAX_TOKENS}", param="usages"
                )
        if usage.bytes_in < 0:
            raise InvalidRequest(f"usages[{index}].bytes_in is {usage.bytes_in}; it can be 0 or more", param="usages")
        if not usage.HasField("at"):
            raise InvalidRequest(f"usages[{index}].at is missing", param="usages")


def _price_at(prices: Sequence[PriceMessage], model: str, at: datetime) -> Price:
    """Return the price of a model at a time, without a version: pass-through requests have none."""
    past = [p for p in prices if p.model == model and not p.version and p.effective_from.ToDatetime(UTC) <= at]
    if not past:
        return FREE
    return Price(from_usd(past[-1].prompt_usd_per_million, ""), from_usd(past[-1].completion_usd_per_million, ""))


def _audit_details(data_plane: str, usage: Usage, row: Row) -> dict[str, object]:
    return {
        "data_plane": data_plane[:MAX_TEXT],
        "request_id": usage.request_id,
        "route": usage.route[:MAX_TEXT],
        "upstream": row.upstream[:MAX_TEXT],
        "status": usage.status,
        "flags": usage.flags[:MAX_TEXT],
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "counted_by": row.counted_by,
        "cost_usd": to_usd(row.cost),
        "ledger": row.id,
    }
