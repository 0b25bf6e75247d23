"""Metrics of loaded models."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

LOADED = Gauge("drw_runtime_loaded", "1: the model is loaded and warm.", ["model"])
MEMORY = Gauge("drw_runtime_memory_bytes", "Resident memory of the process of a model.", ["model"])
RESERVED = Gauge("drw_runtime_reserved_bytes", "Memory limits of all model processes together.")
QUEUE = Gauge("drw_runtime_queue", "Requests that wait for a model.", ["model"])
LOADS = Counter("drw_runtime_loads", "Loads of models by outcome: ok or failed.", ["model", "outcome"])
UNLOADS = Counter(
    "drw_runtime_unloads", "Unloads by reason: request, memory, replaced, died or frozen.", ["model", "reason"]
)
BATCH_ROWS = Histogram(
    "drw_runtime_batch_rows", "Rows that are processed together.", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
INFER_SECONDS = Histogram(
    "drw_runtime_infer_seconds",
    "Time of one batch in the process of the model.",
    ["model"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
