"""What went to upstreams of others is counted: every request at least once, whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.data_plane import Fed
from agent.delivery.test_changes import as_toml
from agent.reporting.test_pass_through import CHAT, MESSAGES, route, want
from agent.upstream import DoubleVllm
from drw.agent.reporting import usage as module
from drw.agent.reporting.usage import REJECTED_FILE, UsageLog
from drw.agent.xds.translation import EdgeOptions
from drw.api.gateway.v1.rate_limiting_pb2 import ReportUsageRequest, ReportUsageResponse, Usage
from drw.api.gateway.v1.rate_limiting_rpc import RateLimiting, RateLimitingClient
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.transport import Channels, Server
from drw.kernel.runtime.settings import DataPlane
from support.parts import until


class DoubleRateLimiting(RateLimiting):
    """Counts what is reported, as the service does: each request once; fails as the test says."""

    def __init__(self) -> None:
        self.counted: dict[str, Usage] = {}
        self.order: list[str] = []
        self.calls = 0
        self.refused = ""
        self.forgets_answer = False

    async def report_usage(self, request: ReportUsageRequest, /) -> ReportUsageResponse:
        self.calls += 1
        for one in request.usages:
            if self.refused and one.request_id == self.refused:
                raise InvalidRequest(f"{one.request_id} is refused")
        for one in request.usages:
            if one.request_id not in self.counted:
                self.order.append(one.request_id)
            self.counted[one.request_id] = one
        if self.forgets_answer:
            self.forgets_answer = False
            raise Unavailable("the answer is lost")
        return ReportUsageResponse()


def line(number: int, **other) -> str:
    found = {
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
    return json.dumps(found | other) + "\n"


class Written:
    """A data plane's folder, whose log the test writes as Envoy would; `/reopen_logs` is answered by a double."""

    def __init__(self, folder: Path, double: DoubleRateLimiting, client: RateLimitingClient) -> None:
        self.edge = EdgeOptions(DataPlane(folder=folder, admin=f"unix:{folder}/none"))
        self.double = double
        self.client = client

    def write(self, *lines: str) -> None:
        with self.edge.usage.open("a") as out:
            out.write("".join(lines))

    def log(self, **options) -> UsageLog:
        return UsageLog(self.edge, "dp", self.client, retry_seconds=(0.01,), **options)

    async def all(self, log: UsageLog) -> None:
        with suppress(Unavailable):  # nobody to tell that it should open a new file
            while await log.step():
                pass


@pytest.fixture
async def written(tmp_path: Path, folder: Path) -> AsyncIterator[Written]:
    double, channels = DoubleRateLimiting(), Channels()
    server = Server([double])
    where = await server.start("127.0.0.1:0")
    yield Written(tmp_path, double, channels.client(RateLimitingClient, where))
    await channels.close()
    await server.stop(0)


async def test_a_line_says_all_of_a_request(written: Any) -> None:
    written.write(line(1), line(2, prompt_tokens=None, completion_tokens=None, status=503, flags="UF"))
    await written.all(written.log())
    one, two = written.double.counted["r1"], written.double.counted["r2"]
    assert (one.org, one.desk, one.key, one.model, one.route, one.upstream) == (
        "acme", "research", "key_1", "llama", "llama", "vllm",
    )  # fmt: skip
    assert (one.prompt_tokens, one.completion_tokens, one.counted, one.status) == (7, 3, True, 200)
    assert (one.flags, one.trace_id) == ("", "")
    assert one.at.ToJsonString() == "2026-01-02T03:04:05.000006Z"
    assert (two.counted, two.status, two.flags) == (False, 503, "UF")


@pytest.mark.parametrize("count", [2**64, 1e30, 100_000_001])
async def test_a_count_that_cannot_be_is_none(written: Any, count: Any) -> None:
    written.write(line(1, prompt_tokens=count, bytes_in=900))
    await written.all(written.log())
    one = written.double.counted["r1"]
    assert (one.counted, one.prompt_tokens, one.completion_tokens, one.bytes_in) == (False, 0, 0, 900)


async def test_what_is_half_written_waits_and_what_cannot_be_read_holds_up_nobody(written: Any) -> None:
    log = written.log()
    assert not await log.step()  # there is no file yet
    written.write(line(1), line(2)[:40])
    await written.all(log)
    assert written.double.order == ["r1"]
    written.write(line(2)[40:], "{broken\n", "[]\n", line(3, at="yesterday"), line(4))
    await written.all(log)
    assert written.double.order == ["r1", "r2", "r4"]


async def test_it_goes_on_where_it_stood(written: Any) -> None:
    written.write(line(1), line(2))
    await written.all(written.log())
    written.write(line(3))
    calls = written.double.calls
    await written.all(written.log())  # as a new agent does
    assert written.double.order == ["r1", "r2", "r3"] and written.double.calls == calls + 1
    written.edge.usage.with_suffix(".json").unlink()
    await written.all(written.log())  # all again, since nothing is known
    assert written.double.order == ["r1", "r2", "r3"]
    written.edge.usage.with_suffix(".json").write_text('{"inode": 1, "offset"')
    written.write(line(4))
    await written.all(written.log())
    assert written.double.order == ["r1", "r2", "r3", "r4"]


async def test_an_answer_that_is_lost_makes_a_report_twice_and_a_count_once(written: Any) -> None:
    written.write(line(1))
    written.double.forgets_answer = True
    with pytest.raises(Unavailable):
        await written.log().step()
    await written.all(written.log())
    assert (written.double.order, written.double.calls) == (["r1"], 2)


async def test_one_that_is_refused_is_put_aside_and_holds_up_nobody(written: Any) -> None:
    written.double.refused = "r2"
    written.write(line(1), line(2), line(3))
    await written.all(written.log())
    assert written.double.order == ["r1", "r3"]
    kept = written.edge.usage.with_name(REJECTED_FILE).read_text().split()
    assert [Usage.FromString(bytes.fromhex(text)).request_id for text in kept] == ["r2"]


async def test_a_full_file_is_put_aside_and_goes_once_it_is_counted(written: Any) -> None:
    folder = written.edge.plane.folder

    def names() -> list[str]:
        return sorted(file.name for file in folder.glob("usage.*log"))

    written.write(line(1))
    await written.all(written.log(max_file_bytes=10))
    assert names() == ["usage.000001.log"]
    with (folder / "usage.000001.log").open("a") as out:
        out.write(line(2))  # Envoy has not opened the new file yet
    await written.all(written.log(max_file_bytes=10))
    assert (names(), written.double.order) == (["usage.000001.log"], ["r1", "r2"])
    written.write(line(3))
    await written.all(written.log(max_file_bytes=1 << 20))
    assert (names(), written.double.order) == (["usage.log"], ["r1", "r2", "r3"])
    await written.all(written.log(max_file_bytes=10))
    written.write(line(4))
    (folder / "usage.000002.log").write_text(line(5))
    (folder / "usage.log").rename(folder / "usage.000003.log")
    written.write(line(6))
    await written.all(written.log())
    assert set(written.double.order) == {f"r{n}" for n in (1, 2, 3, 4, 5, 6)}


async def test_many_lines_are_reported_in_their_order(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 7)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4096)
    written.write(*(line(n) for n in range(300)))
    written.write("x" * 9000, "\n", line(300))
    await written.all(written.log())
    assert written.double.order == [f"r{n}" for n in range(301)]
    assert written.double.calls > 40


@asynccontextmanager
async def counting(fed: Fed, double: DoubleRateLimiting):
    """The router and the rate limiting service, as one process of the gateway."""
    server = Server([fed.router_double, double])
    await server.start(fed.profile.place("request_router").grpc)
    try:
        yield
    finally:
        await server.stop(0)


async def test_nothing_is_lost_though_agent_and_service_die(fed: Fed, tmp_path: Path) -> None:
    vllm, double, sent = await DoubleVllm().start(), DoubleRateLimiting(), []
    await want(fed, vllm, route())
    await fed.stop_gateway()
    await fed.stop_agent()
    file = tmp_path / "profile.toml"
    file.write_text(as_toml(fed.profile))

    async def ask(client, times: int) -> None:
        for _ in range(times):
            answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})
            assert answer.status_code == 200
            sent.append(answer.headers["x-request-id"])

    def agent() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "drw.agent", str(file)], stderr=subprocess.DEVNULL)

    async def all_counted() -> bool:
        return double.counted.keys() >= set(sent)

    first = agent()
    try:
        async with fed.client(fed.sign("key_1", "models:invoke")) as client:
            async with counting(fed, double):
                await ask(client, 20)
                await until(all_counted, "the first count")
                asking = asyncio.create_task(ask(client, 40))
                first.kill()
                first.wait()
                await asking
            await ask(client, 20)  # neither is there
            first = agent()
            await ask(client, 20)
            async with counting(fed, double):
                await until(all_counted, "the last count")
    finally:
        first.kill()
        first.wait()
        await vllm.stop()
    assert len(sent) == len(double.counted) == 100
    assert double.order == sorted(double.order, key=sent.index)
