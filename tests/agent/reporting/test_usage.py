"""Usage of pass-through requests is reported at least once, despite crashes of the agent and the service."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from agent.data_plane import DataPlaneHarness
from agent.delivery.test_changes import as_toml
from agent.reporting.test_pass_through import CHAT, MESSAGES, apply_routes, route
from agent.upstream import DoubleVllm
from drw.agent.reporting import usage as module
from drw.agent.reporting.usage import REJECTED_FILE, UsageLog
from drw.agent.xds.translation import EdgeOptions
from drw.api.gateway.v1.rate_limiting_pb2 import ReportUsageRequest, ReportUsageResponse, Usage
from drw.api.gateway.v1.rate_limiting_rpc import RateLimiting, RateLimitingClient
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.transport import Channels, Server
from drw.kernel.runtime.settings import DataPlane
from support.json_types import Json
from support.parts import until


class DoubleRateLimiting(RateLimiting):
    """Counts each reported request once, like the service, and fails as the test sets."""

    def __init__(self) -> None:
        self.counted: dict[str, Usage] = {}
        self.order: list[str] = []
        self.calls = 0
        self.rejected_id = ""
        self.lose_response = False

    async def report_usage(self, request: ReportUsageRequest, /) -> ReportUsageResponse:
        self.calls += 1
        for usage in request.usages:
            if self.rejected_id and usage.request_id == self.rejected_id:
                raise InvalidRequest(f"{usage.request_id} is refused")
        for usage in request.usages:
            if usage.request_id not in self.counted:
                self.order.append(usage.request_id)
            self.counted[usage.request_id] = usage
        if self.lose_response:
            self.lose_response = False
            raise Unavailable("the answer is lost")
        return ReportUsageResponse()


def line(number: int, **other: Json) -> str:
    fields = {
        "at": "2026-01-02T03:04:05.000006Z",
        "request_id": f"r{number}",
        "trace_id": None,
        "route": "llama",
        "status": 200,
        "flags": "-",
        "org": "acme",
        "desk": "research",
        "key": "key_1",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "model": "llama",
        "upstream": "vllm",
    }
    return json.dumps(fields | other) + "\n"


class UsageFolder:
    """The folder of a data plane in which the test writes the usage log that Envoy would write."""

    def __init__(self, folder: Path, double: DoubleRateLimiting, client: RateLimitingClient) -> None:
        self.edge = EdgeOptions(DataPlane(folder=folder, admin=f"unix:{folder}/none"))
        self.double = double
        self.client = client

    def write(self, *lines: str) -> None:
        with self.edge.usage.open("a") as out:
            out.write("".join(lines))

    def log(self, **options: int) -> UsageLog:
        return UsageLog(self.edge, "dp", self.client, retry_seconds=(0.01,), **options)

    async def report_all(self, log: UsageLog) -> None:
        with suppress(Unavailable):  # no Envoy runs that could reopen its log
            while await log.step():
                pass


@pytest.fixture
async def usage_folder(tmp_path: Path, folder: Path) -> AsyncIterator[UsageFolder]:
    double, channels = DoubleRateLimiting(), Channels()
    server = Server([double])
    address = await server.start("127.0.0.1:0")
    yield UsageFolder(tmp_path, double, channels.client(RateLimitingClient, address))
    await channels.close()
    await server.stop(0)


async def test_usage_line_is_reported_with_every_field(usage_folder: UsageFolder) -> None:
    usage_folder.write(line(1), line(2, prompt_tokens=None, completion_tokens=None, status=503, flags="UF"))
    await usage_folder.report_all(usage_folder.log())
    usage, two = usage_folder.double.counted["r1"], usage_folder.double.counted["r2"]
    assert (usage.org, usage.desk, usage.key, usage.model, usage.route, usage.upstream) == (
        "acme", "research", "key_1", "llama", "llama", "vllm",
    )  # fmt: skip
    assert (usage.prompt_tokens, usage.completion_tokens, usage.counted, usage.status) == (7, 3, True, 200)
    assert (usage.flags, usage.trace_id) == ("", "")
    assert usage.at.ToJsonString() == "2026-01-02T03:04:05.000006Z"
    assert (two.counted, two.status, two.flags) == (False, 503, "UF")


@pytest.mark.parametrize("count", [2**64, 1e30, 100_000_001])
async def test_impossible_token_count_is_reported_as_not_counted(usage_folder: UsageFolder, count: float) -> None:
    usage_folder.write(line(1, prompt_tokens=count, bytes_in=900))
    await usage_folder.report_all(usage_folder.log())
    usage = usage_folder.double.counted["r1"]
    assert (usage.counted, usage.prompt_tokens, usage.completion_tokens, usage.bytes_in) == (False, 0, 0, 900)


async def test_partial_lines_wait_and_invalid_lines_are_skipped(usage_folder: UsageFolder) -> None:
    log = usage_folder.log()
    assert not await log.step()  # the file does not exist yet
    usage_folder.write(line(1), line(2)[:40])
    await usage_folder.report_all(log)
    assert usage_folder.double.order == ["r1"]
    usage_folder.write(line(2)[40:], "{broken\n", "[]\n", line(3, at="yesterday"), line(4))
    await usage_folder.report_all(log)
    assert usage_folder.double.order == ["r1", "r2", "r4"]


async def test_reporting_resumes_at_the_saved_offset(usage_folder: UsageFolder) -> None:
    usage_folder.write(line(1), line(2))
    await usage_folder.report_all(usage_folder.log())
    usage_folder.write(line(3))
    calls = usage_folder.double.calls
    await usage_folder.report_all(usage_folder.log())  # a new log object, like after a restart of the agent
    assert usage_folder.double.order == ["r1", "r2", "r3"] and usage_folder.double.calls == calls + 1
    usage_folder.edge.usage.with_suffix(".json").unlink()
    await usage_folder.report_all(usage_folder.log())  # without the saved offset every line is reported again
    assert usage_folder.double.order == ["r1", "r2", "r3"]
    usage_folder.edge.usage.with_suffix(".json").write_text('{"inode": 1, "offset"')
    usage_folder.write(line(4))
    await usage_folder.report_all(usage_folder.log())
    assert usage_folder.double.order == ["r1", "r2", "r3", "r4"]


async def test_lost_response_repeats_the_report_and_counts_it_once(usage_folder: UsageFolder) -> None:
    usage_folder.write(line(1))
    usage_folder.double.lose_response = True
    with pytest.raises(Unavailable):
        await usage_folder.log().step()
    await usage_folder.report_all(usage_folder.log())
    assert (usage_folder.double.order, usage_folder.double.calls) == (["r1"], 2)


async def test_rejected_usage_is_saved_separately_and_the_rest_continues(usage_folder: UsageFolder) -> None:
    usage_folder.double.rejected_id = "r2"
    usage_folder.write(line(1), line(2), line(3))
    await usage_folder.report_all(usage_folder.log())
    assert usage_folder.double.order == ["r1", "r3"]
    rejected = usage_folder.edge.usage.with_name(REJECTED_FILE).read_text().split()
    assert [Usage.FromString(bytes.fromhex(text)).request_id for text in rejected] == ["r2"]


async def test_full_usage_log_is_rotated_and_deleted_once_reported(usage_folder: UsageFolder) -> None:
    folder = usage_folder.edge.plane.folder

    def names() -> list[str]:
        return sorted(file.name for file in folder.glob("usage.*log"))

    usage_folder.write(line(1))
    await usage_folder.report_all(usage_folder.log(max_file_bytes=10))
    assert names() == ["usage.000001.log"]
    with (folder / "usage.000001.log").open("a") as out:
        out.write(line(2))  # Envoy still writes to the old file
    await usage_folder.report_all(usage_folder.log(max_file_bytes=10))
    assert (names(), usage_folder.double.order) == (["usage.000001.log"], ["r1", "r2"])
    usage_folder.write(line(3))
    await usage_folder.report_all(usage_folder.log(max_file_bytes=1 << 20))
    assert (names(), usage_folder.double.order) == (["usage.log"], ["r1", "r2", "r3"])
    await usage_folder.report_all(usage_folder.log(max_file_bytes=10))
    usage_folder.write(line(4))
    (folder / "usage.000002.log").write_text(line(5))
    (folder / "usage.log").rename(folder / "usage.000003.log")
    usage_folder.write(line(6))
    await usage_folder.report_all(usage_folder.log())
    assert set(usage_folder.double.order) == {f"r{n}" for n in (1, 2, 3, 4, 5, 6)}


async def test_many_lines_are_reported_in_order(usage_folder: UsageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 7)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4096)
    usage_folder.write(*(line(n) for n in range(300)))
    usage_folder.write("x" * 9000, "\n", line(300))
    await usage_folder.report_all(usage_folder.log())
    assert usage_folder.double.order == [f"r{n}" for n in range(301)]
    assert usage_folder.double.calls > 40


@asynccontextmanager
async def control_plane(data_plane: DataPlaneHarness, double: DoubleRateLimiting) -> AsyncIterator[None]:
    """Serve the router and rate limiting doubles at the address of the gateway inside the block."""
    server = Server([data_plane.router, double])
    await server.start(data_plane.profile.address_of("request_router").grpc)
    try:
        yield
    finally:
        await server.stop(0)


async def test_no_usage_is_lost_when_agent_and_service_die(data_plane: DataPlaneHarness, tmp_path: Path) -> None:
    vllm, double, sent = await DoubleVllm().start(), DoubleRateLimiting(), []
    await apply_routes(data_plane, vllm, route())
    await data_plane.stop_gateway()
    await data_plane.stop_agent()
    file = tmp_path / "profile.toml"
    file.write_text(as_toml(data_plane.profile))

    async def send_requests(client: httpx.AsyncClient, times: int) -> None:
        for _ in range(times):
            answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})
            assert answer.status_code == 200
            sent.append(answer.headers["x-request-id"])

    def start_agent() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "drw.agent", str(file)], stderr=subprocess.DEVNULL)

    async def all_counted() -> bool:
        return double.counted.keys() >= set(sent)

    process = start_agent()
    try:
        async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
            async with control_plane(data_plane, double):
                await send_requests(client, 20)
                await until(all_counted, "the first count")
                requests = asyncio.create_task(send_requests(client, 40))
                process.kill()
                process.wait()
                await requests
            await send_requests(client, 20)  # neither the agent nor the service runs
            process = start_agent()
            await send_requests(client, 20)
            async with control_plane(data_plane, double):
                await until(all_counted, "the last count")
    finally:
        process.kill()
        process.wait()
        await vllm.stop()
    assert len(sent) == len(double.counted) == 100
    assert double.order == sorted(double.order, key=sent.index)
