"""The dashboards: boards with their panels and Prometheus queries."""

from __future__ import annotations

from typing import NamedTuple

RATE = "$__rate_interval"
"""Grafana's interval for rates at the current zoom and scrape interval."""


class Query(NamedTuple):
    """A Prometheus query and the legend of its lines."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """One panel of a dashboard."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"


class Board(NamedTuple):
    """One dashboard."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _rate(metric: str, by: str, matching: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{matching}[{RATE}]))"


def _quantile(quantile: float, metric: str, by: str) -> str:
    return f"histogram_quantile({quantile}, {_rate(f'{metric}_bucket', f'le, {by}')})"


def _quantiles(metric: str, by: str) -> tuple[Query, ...]:
    return tuple(
        Query(_quantile(quantile, metric, by), f"p{round(quantile * 100)} {{{{{by}}}}}")
        for quantile in (0.5, 0.95, 0.99)
    )


def _single_query(expr: str, legend: str) -> tuple[Query, ...]:
    return (Query(expr, legend),)


MODEL = "gen_ai_response_model"
NOT_SCRAPES = 'route!~"metrics[.].*"'
"""Excludes scrapes of metrics."""
LISTENER = '{envoy_http_conn_manager_prefix="drw"}'

GATEWAY = Board(
    "gateway",
    "Gateway",
    (
        Panel(
            "Requests by route",
            "reqps",
            "From the access log.",
            _single_query(_rate("drw_requests_total", "route"), "{{route}}"),
        ),
        Panel(
            "Requests by status",
            "reqps",
            "From the access log.",
            _single_query(_rate("drw_requests_total", "code"), "{{code}}"),
        ),
        Panel(
            "Rejected at the edge",
            "reqps",
            "What Envoy refuses by itself: bad keys (401), scopes (403) and blocks (403, 429), limits (429).",
            (
                Query(_rate("envoy_http_jwt_authn_denied", "envoy_http_conn_manager_prefix"), "bad key"),
                Query(f"sum(rate(envoy_drw_requests_without_scope[{RATE}]))", "scope"),
                Query(_rate("envoy_http_rbac_denied", "envoy_http_conn_manager_prefix"), "scope of a model, or block"),
                Query(f"sum(rate(envoy_drw_requests_over_limit[{RATE}]))", "requests a minute"),
            ),
        ),
        Panel(
            "Failed requests",
            "percentunit",
            "The part of all requests that ends with a 5xx. The objective is 0.1 %.",
            _single_query(
                f'sum(rate(drw_requests_total{{{NOT_SCRAPES},code=~"5.."}}[{RATE}]))'
                f" / sum(rate(drw_requests_total{{{NOT_SCRAPES}}}[{RATE}]))",
                "failed",
            ),
        ),
        Panel("Request duration", "s", "To the last byte of the answer.", _quantiles("drw_request_seconds", "route")),
        Panel(
            "Latency added to model calls",
            "s",
            "edge: Envoy. serving: our own work. queue: waiting for admission at the model.",
            _quantiles("drw_overhead_seconds", "part"),
        ),
        Panel(
            "Requests in progress",
            "short",
            "At the edge.",
            _single_query(f"envoy_http_downstream_rq_active{LISTENER}", "{{instance}}"),
        ),
        Panel(
            "Services",
            "bool_yes_no",
            "Whether each does all it should; `drw status` says why not.",
            _single_query("min by (service) (drw_service_ready)", "{{service}}"),
            "stat",
        ),
        Panel(
            "Age of the signing key",
            "s",
            "Of the newest key that signs API keys.",
            _single_query("max(drw_signing_key_age_seconds)", "age"),
        ),
        Panel(
            "Calls between services",
            "s",
            "The slowest hundredth, on the side that serves.",
            _single_query(_quantile(0.99, "drw_call_seconds", "service"), "{{service}}"),
        ),
        Panel(
            "Calls in progress",
            "short",
            "Between services, on the side that serves: begun less ended.",
            _single_query(
                "sum by (service) (drw_calls_started_total) - sum by (service) (drw_call_seconds_count)",
                "{{service}}",
            ),
        ),
        Panel(
            "Failed calls",
            "reqps",
            "On the side that serves.",
            _single_query(
                _rate("drw_call_seconds_count", "service, code", '{code!~"OK|[1234]..|CANCELLED"}'),
                "{{service}} {{code}}",
            ),
        ),
    ),
)

MODELS = Board(
    "models",
    "Models",
    (
        Panel(
            "Calls",
            "reqps",
            "ok; refused: the request was at fault; failed: we or the engine; client_gone: the caller left;"
            " killed: a kill switch.",
            _single_query(
                _rate("gen_ai_server_request_duration_seconds_count", f"{MODEL}, outcome"),
                f"{{{{{MODEL}}}}} {{{{outcome}}}}",
            ),
        ),
        Panel(
            "Errors",
            "reqps",
            "By class.",
            _single_query(
                _rate("gen_ai_client_operation_duration_seconds_count", f"{MODEL}, error_type", '{error_type!=""}'),
                f"{{{{{MODEL}}}}} {{{{error_type}}}}",
            ),
        ),
        Panel("Time to first token", "s", "", _quantiles("gen_ai_server_time_to_first_token_seconds", MODEL)),
        Panel("Time between tokens", "s", "", _quantiles("gen_ai_server_time_per_output_token_seconds", MODEL)),
        Panel(
            "Tokens per second",
            "short",
            "Read (input) and written (output).",
            _single_query(
                _rate("gen_ai_client_token_usage_sum", f"{MODEL}, gen_ai_token_type"),
                f"{{{{{MODEL}}}}} {{{{gen_ai_token_type}}}}",
            ),
        ),
        Panel("Call duration", "s", "", _quantiles("gen_ai_server_request_duration_seconds", MODEL)),
        Panel(
            "Cost per hour",
            "currencyUSD",
            "By model.",
            _single_query(f"sum by ({MODEL}) (increase(drw_cost_usd_total[1h]))", f"{{{{{MODEL}}}}}"),
        ),
        Panel(
            "Fallbacks",
            "reqps",
            "Calls that another model than the first one chosen took over.",
            _single_query(_rate("drw_fallbacks_total", "from, to, reason"), "{{from}} to {{to}}: {{reason}}"),
        ),
        Panel(
            "Circuits",
            "short",
            "0 closed, 1 half-open, 2 open.",
            _single_query("max by (model, replica) (drw_circuit_state)", "{{model}} {{replica}}"),
        ),
        Panel(
            "Admission queue",
            "s",
            "How long calls waited, of those that had to.",
            _single_query(
                f'histogram_quantile(0.95, sum by (le) (rate(drw_overhead_seconds_bucket{{part="queue"}}[{RATE}])))',
                "p95",
            ),
        ),
        Panel(
            "Retrieval and embeddings",
            "s",
            "",
            _single_query(
                "histogram_quantile(0.95, sum by (le, gen_ai_operation_name)"
                ' (rate(gen_ai_client_operation_duration_seconds_bucket{gen_ai_operation_name=~"retrieval|embeddings"}'
                f"[{RATE}])))",
                "p95 {{gen_ai_operation_name}}",
            ),
        ),
    ),
)

MONEY = Board(
    "money",
    "Money",
    (
        Panel(
            "Budget used",
            "percentunit",
            "What has been spent, as a part of the cap.",
            _single_query("drw_budget_spent_usd / drw_budget_cap_usd", "{{org}} {{kind}} {{name}}, {{period}}"),
            "bargauge",
        ),
        Panel(
            "Spent",
            "currencyUSD",
            "In this period.",
            _single_query("drw_budget_spent_usd", "{{org}} {{kind}} {{name}}, {{period}}"),
        ),
        Panel(
            "Reserved",
            "currencyUSD",
            "Maximum cost of the calls in progress.",
            _single_query("drw_budget_reserved_usd", "{{org}} {{kind}} {{name}}, {{period}}"),
        ),
        Panel(
            "Cost per hour",
            "currencyUSD",
            "By desk.",
            _single_query("sum by (org, desk) (increase(drw_cost_usd_total[1h]))", "{{org}} {{desk}}"),
        ),
        Panel(
            "Abandoned reservations",
            "short",
            "Of processes that died; the reaper settles them.",
            _single_query("max(drw_reservations_abandoned)", "reservations"),
        ),
    ),
)

DATA_PLANE = Board(
    "data-plane",
    "Data plane",
    (
        Panel(
            "Data planes by configuration",
            "short",
            "As they tell the router.",
            _single_query("sum by (configuration) (drw_data_planes)", "{{configuration}}"),
        ),
        Panel(
            "Envoy",
            "bool_yes_no",
            "As its agent sees it.",
            (
                Query("drw_data_plane_up", "answers {{instance}}"),
                Query("drw_data_plane_current", "newest {{instance}}"),
            ),
            "stat",
        ),
        Panel(
            "Rejected configurations",
            "short",
            "By kind, in the last hour.",
            (
                Query("sum(increase(envoy_cluster_manager_cds_update_rejected[1h]))", "clusters"),
                Query("sum(increase(envoy_listener_manager_lds_update_rejected[1h]))", "listeners"),
                Query("sum(increase(envoy_http_rds_update_rejected[1h]))", "routes"),
            ),
        ),
        Panel(
            "Healthy hosts",
            "percentunit",
            "By upstream.",
            _single_query(
                "sum by (envoy_cluster_name) (envoy_cluster_membership_healthy)"
                " / sum by (envoy_cluster_name) (envoy_cluster_membership_total)",
                "{{envoy_cluster_name}}",
            ),
        ),
        Panel(
            "Failed connections",
            "cps",
            "By upstream: all that tells of an upstream with a single host, as our own processes are.",
            _single_query(
                _rate("envoy_cluster_upstream_cx_connect_fail", "envoy_cluster_name"), "{{envoy_cluster_name}}"
            ),
        ),
        Panel(
            "Ejected hosts",
            "short",
            "By upstream; only those with several hosts.",
            _single_query(
                "sum by (envoy_cluster_name) (envoy_cluster_outlier_detection_ejections_active)",
                "{{envoy_cluster_name}}",
            ),
        ),
        Panel(
            "Upstream answers",
            "reqps",
            "By class of status.",
            _single_query(
                _rate("envoy_cluster_upstream_rq_xx", "envoy_cluster_name, envoy_response_code_class"),
                "{{envoy_cluster_name}} {{envoy_response_code_class}}xx",
            ),
        ),
        Panel(
            "Upstream time",
            "ms",
            "p99 by upstream.",
            _single_query(
                _quantile(0.99, "envoy_cluster_upstream_rq_time", "envoy_cluster_name"), "{{envoy_cluster_name}}"
            ),
        ),
        Panel(
            "Retries and overflow",
            "reqps",
            "",
            (
                Query(_rate("envoy_cluster_upstream_rq_retry", "envoy_cluster_name"), "retries {{envoy_cluster_name}}"),
                Query(
                    _rate("envoy_cluster_upstream_rq_pending_overflow", "envoy_cluster_name"),
                    "overflow {{envoy_cluster_name}}",
                ),
            ),
        ),
        Panel(
            "Connections",
            "short",
            "From clients.",
            _single_query(f"envoy_http_downstream_cx_active{LISTENER}", "{{instance}}"),
        ),
        Panel("Memory", "bytes", "Of Envoy.", _single_query("envoy_server_memory_allocated", "{{instance}}")),
    ),
)

AUDIT = Board(
    "audit",
    "Audit",
    (
        Panel(
            "Unsigned records",
            "short",
            "They are on disk; a checkpoint will cover them.",
            _single_query("drw_audit_unsigned_records", "records"),
        ),
        Panel(
            "Oldest unsigned record",
            "s",
            "",
            _single_query("drw_audit_oldest_unsigned_seconds", "age"),
        ),
        Panel(
            "Damage",
            "bool_yes_no",
            "Anything but 0: see alerts.md.",
            _single_query("drw_audit_damaged", "damaged"),
            "stat",
        ),
        Panel(
            "Calls of the log",
            "reqps",
            "",
            _single_query(_rate("drw_call_seconds_count", "method, code", '{service="log"}'), "{{method}} {{code}}"),
        ),
    ),
)

RUNS = Board(
    "runs",
    "Runs",
    (
        Panel("Open runs", "short", "By state.", _single_query("max by (state) (drw_runs_open)", "{{state}}")),
        Panel(
            "Finished runs per hour",
            "short",
            "",
            _single_query("sum by (outcome) (increase(drw_runs_ended_total[1h]))", "{{outcome}}"),
        ),
        Panel(
            "Step attempts",
            "reqps",
            "",
            _single_query(_rate("drw_steps_total", "activity, outcome"), "{{activity}} {{outcome}}"),
        ),
        Panel("Oldest run that waits", "s", "", _single_query("max(drw_runs_oldest_queued_seconds)", "age")),
        Panel(
            "Unpublished events",
            "short",
            "The live view of runs is that far behind.",
            _single_query("max(drw_runs_events_waiting)", "events"),
        ),
    ),
)

BOARDS = (GATEWAY, MODELS, MONEY, DATA_PLANE, AUDIT, RUNS)
