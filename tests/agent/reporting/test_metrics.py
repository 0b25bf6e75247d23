"""Metrics of the data plane: Envoy's own metrics, request outcomes and the latency that Envoy adds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from agent.data_plane import GatewayHarness
from drw.agent.delivery import envoy
from drw.agent.reporting.access_metrics import LogTail
from support.json_types import Json
from support.parts import until

CHAT = "/v1/chat/completions"


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def line(route: str = "chat", status: int = 200, **other: Json) -> str:
    fields = {"route": route, "path": CHAT, "status": status, "ms": 12, "before_us": 300, "after_us": 200}
    return json.dumps(fields | other) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Path, LogTail]]:
    file = tmp_path / "access.log"
    file.write_text(line("old"))
    lines = LogTail(file)
    yield file, lines
    lines.close()


async def test_each_log_line_is_counted_once_across_rotation(log: tuple[Path, LogTail]) -> None:
    file, lines = log
    counts = {code: sample("drw_requests_total", route="chat", code=code) for code in ("200", "429", "503")}
    edge = sample("drw_overhead_seconds_count", part="edge"), sample("drw_overhead_seconds_sum", part="edge")
    with file.open("a") as writing:
        writing.write(line() + line(status=429, before_us=None, after_us=None) + "not JSON\n" + line()[:-20])
        writing.flush()
        await lines.count()
        rotated = file.with_suffix(".1.log")
        file.rename(rotated)
        await lines.count()
        writing.write(line()[-20:] + line(status=503))
    file.write_text(line())
    await lines.count()
    await lines.count()
    assert sample("drw_requests_total", route="old", code="200") == 0
    now = {code: sample("drw_requests_total", route="chat", code=code) - before for code, before in counts.items()}
    assert now == {"200": 3, "429": 1, "503": 1}
    assert sample("drw_overhead_seconds_count", part="edge") == edge[0] + 4
    assert sample("drw_overhead_seconds_sum", part="edge") == pytest.approx(edge[1] + 4 * 0.0005)


async def test_edge_overhead_counts_model_calls_without_upload_time(log: tuple[Path, LogTail]) -> None:
    file, lines = log
    edge = sample("drw_overhead_seconds_count", part="edge"), sample("drw_overhead_seconds_sum", part="edge")
    buffered = line(before_us=9_000_300, received_us=9_000_000)  # Envoy buffered the body first
    streamed = line(received_us=9_000_000)
    with file.open("a") as writing:
        writing.write(
            buffered + streamed + line("files.write", path="/v1/files") + line("metrics.models", path="/metrics")
        )
    await lines.count()
    assert sample("drw_overhead_seconds_count", part="edge") == edge[0] + 2
    assert sample("drw_overhead_seconds_sum", part="edge") == pytest.approx(edge[1] + 2 * 0.0005)


async def test_log_created_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    lines = LogTail(tmp_path / "access.log")
    await lines.count()
    before = sample("drw_requests_total", route="late", code="200")
    (tmp_path / "access.log").write_text(line("late"))
    await lines.count()
    assert sample("drw_requests_total", route="late", code="200") == before + 1
    lines.close()


async def test_gateway_exposes_the_metrics_of_its_data_plane(gateway: GatewayHarness) -> None:
    async with gateway.client(await gateway.create_key("models:invoke", "platform:read")) as client:
        requests, edge = sample("drw_requests_total", route="chat", code="200"), edge_count()
        assert (await client.post(CHAT, json={})).status_code == 200

        async def line_is_counted() -> bool:
            return sample("drw_requests_total", route="chat", code="200") > requests and edge_count() > edge

        await until(line_is_counted, "the line of the access log")
        answer = await client.get("/metrics/agent")
        assert answer.status_code == 200
        hosts = 'drw_upstream_hosts{circuit="closed",upstream="models"} 1.0'
        for name in ("envoy_http_downstream_rq_xx", "drw_data_plane_up 1.0", "drw_data_plane_current 1.0", hosts):
            assert name in answer.text
    async with gateway.client(await gateway.create_key("models:invoke")) as client:
        assert (await client.get("/metrics/agent")).status_code == 403
    seconds = REGISTRY.get_sample_value("drw_overhead_seconds_sum", {"part": "edge"})
    assert seconds is not None and seconds > 0


async def test_agent_metrics_report_that_envoy_is_down(gateway: GatewayHarness) -> None:
    await gateway.stop_envoy()
    socket = envoy.data_plane_settings(gateway.profile).metrics.removeprefix("unix:")
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://agent") as client:
        answer = await client.get("/metrics/agent")
    assert answer.status_code == 200
    assert "drw_data_plane_up 0.0" in answer.text
    assert "envoy_" not in answer.text


def edge_count() -> float:
    return sample("drw_overhead_seconds_count", part="edge")
