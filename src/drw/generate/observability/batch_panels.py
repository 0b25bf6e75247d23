"""The dashboard of batches."""

from __future__ import annotations

from drw.generate.observability.panels import RATE, Board, Panel, Query

BOARD = Board(
    "batches",
    "Batches",
    (
        Panel(
            "Open requests",
            "short",
            "Of all batches, by state.",
            (Query("max by (endpoint, state) (drw_batch_requests_open)", "{{endpoint}} {{state}}"),),
        ),
        Panel(
            "Ended requests",
            "reqps",
            "completed, failed, or not_run: the batch expired or was cancelled.",
            (
                Query(
                    f"sum by (endpoint, outcome) (rate(drw_batch_requests_total[{RATE}]))", "{{endpoint}} {{outcome}}"
                ),
            ),
        ),
        Panel(
            "Oldest batch",
            "s",
            "Age of the oldest batch that has not ended; its window has 24 hours.",
            (Query("max by (endpoint) (drw_batch_oldest_seconds)", "{{endpoint}}"),),
        ),
        Panel(
            "Late batches",
            "short",
            "Batches that will miss their window at their present rate.",
            (Query("max by (endpoint) (drw_batches_late)", "{{endpoint}}"),),
        ),
        Panel(
            "Tokens per second",
            "short",
            "Read (input) and written (output).",
            (
                Query(
                    f"sum by (endpoint, gen_ai_token_type) (rate(drw_batch_tokens_total[{RATE}]))",
                    "{{endpoint}} {{gen_ai_token_type}}",
                ),
            ),
        ),
    ),
)
