"""Engine failures: the caller receives an error and a record is written."""

from __future__ import annotations

from pathlib import Path

import openai
import orjson
import psycopg
import pytest

from drw.kernel.storage.audit import digest
from models.cluster import ModelsCluster, StartCluster
from models.double_engine import WORDS
from support.json_types import Json, JsonObject

TEXT = "".join(WORDS)


def ask(how: str, **more: Json) -> JsonObject:
    return {"model": "double", "messages": [{"role": "user", "content": how}], **more}


async def test_a_complete_answer_is_recorded_before_it_ends(cluster: ModelsCluster) -> None:
    answer = await cluster.client.chat.completions.with_raw_response.create(**ask("plain", user="u1"))
    body = answer.parse()
    assert (answer.headers["x-drw-model"], body.model) == ("double", "double")
    assert (body.choices[0].message.content, body.choices[0].finish_reason) == (TEXT, "stop")
    assert body.usage
    assert (body.usage.prompt_tokens, body.usage.total_tokens) == (5, 8)
    assert cluster.double.bodies[0]["model"] == "up-1"
    (record,) = cluster.records()
    assert (record["action"], record["resource"], record["outcome"]) == ("model.chat", "model/double", "ok")
    assert (record["org"], record["desk"], record["actor"]) == ("acme", "research", "key_test")
    details = record["details"]
    assert details["answer_sha256"] == digest(TEXT)
    assert details["request_sha256"] == digest(answer.http_request.content)
    assert (details["upstream_model"], details["engine"]) == ("up-1", "openai")
    assert (details["prompt_tokens"], details["completion_tokens"], details["finish_reason"]) == (5, 3, "stop")
    assert 0 < details["first_token_ms"] <= details["ms"]
    assert TEXT not in str(record)


async def test_the_record_of_a_stream_is_written_before_done(cluster: ModelsCluster) -> None:
    async with cluster.http.stream("POST", "/v1/chat/completions", json=ask("plain", stream=True)) as answer:
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                assert [r["outcome"] for r in cluster.records()] == ["ok"]
                break
        else:
            pytest.fail("the stream has no [DONE]")


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_has_usage_only_on_request(cluster: ModelsCluster, n: int) -> None:
    for asked in (False, True):
        more = {"stream_options": {"include_usage": True}} if asked else {}
        stream = await cluster.client.chat.completions.create(**ask("plain", n=n, **more), stream=True)
        chunks = [chunk async for chunk in stream]
        texts = ["".join(c.delta.content or "" for k in chunks for c in k.choices if c.index == i) for i in range(n)]
        assert texts == [TEXT] * n
        assert {chunk.model for chunk in chunks} == {"double"}
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([5 + 3 * n] if asked else [])


@pytest.mark.parametrize(
    ("how", "status", "code", "outcome"),
    [
        ("cut", 503, "service_unavailable", "failed"),
        ("no_done", 503, "service_unavailable", "failed"),
        ("no_finish", 503, "service_unavailable", "failed"),
        ("error_event", 503, "service_unavailable", "failed"),
        ("status_500", 503, "service_unavailable", "failed"),
        ("status_429", 429, "rate_limit_exceeded", "refused"),
        ("status_401", 500, "internal_error", "failed"),
        ("status_400", 400, "context_length_exceeded", "refused"),
    ],
)
async def test_a_failed_answer_is_an_error_with_a_record(
    cluster: ModelsCluster, how: str, status: int, code: str, outcome: str
) -> None:
    answer = await cluster.http.post("/v1/chat/completions", json=ask(how))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("retry-after") == {503: "1", 429: "7"}.get(status)
    assert "sk-secret" not in answer.text
    assert [r["outcome"] for r in cluster.records()] == [outcome]


@pytest.mark.parametrize("how", ["cut", "no_done", "no_finish", "error_event"])
async def test_a_truncated_stream_ends_with_an_error_without_done(cluster: ModelsCluster, how: str) -> None:
    answer = await cluster.http.post("/v1/chat/completions", json=ask(how, stream=True))
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert answer.status_code == 200
    assert "[DONE]" not in events
    assert orjson.loads(events[-1])["error"]["type"] == "service_unavailable_error"
    (record,) = cluster.records()
    assert record["outcome"] == "failed"
    assert record["details"]["answer_sha256"] in (digest(WORDS[0]), digest(TEXT))
    with pytest.raises(openai.APIError):
        async for _ in await cluster.client.chat.completions.create(**ask(how), stream=True):
            pass


@pytest.mark.parametrize(("how", "stream"), [("wait", False), ("wait", True), ("stall", False)])
async def test_an_engine_above_its_timeout_is_a_504(start: StartCluster, how: str, stream: bool) -> None:
    async with start(openai={"first_token_seconds": 0.1, "between_tokens_seconds": 0.1}) as cluster:
        answer = await cluster.http.post("/v1/chat/completions", json=ask(how, stream=stream))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert [r["details"]["error"] for r in cluster.records()] == ["EngineStalled"]
        await cluster.until(lambda: cluster.double.under_way == 0, "the engine's work to end")


async def test_a_stalled_stream_ends_with_a_timeout_error(start: StartCluster) -> None:
    async with start(openai={"between_tokens_seconds": 0.1}) as cluster:
        with pytest.raises(openai.APIError, match="no token within the time"):
            async for _ in await cluster.client.chat.completions.create(**ask("stall"), stream=True):
                pass


@pytest.mark.parametrize(("how", "stream"), [("wait", False), ("stall", False), ("wait", True), ("stall", True)])
async def test_a_disconnect_of_the_caller_stops_the_engine(cluster: ModelsCluster, how: str, stream: bool) -> None:
    import asyncio

    asking = asyncio.create_task(cluster.http.post("/v1/chat/completions", json=ask(how, stream=stream)))
    await cluster.until(lambda: cluster.double.under_way == 1, "the request to reach the engine")
    asking.cancel()
    await cluster.until(lambda: cluster.double.under_way == 0, "the engine's work to end")
    found: list[JsonObject] = []

    def arrived() -> bool:
        found.extend(cluster.records())
        return bool(found)

    await cluster.until(arrived, "the record")
    assert [r["outcome"] for r in found] == ["client_gone"]


async def test_a_full_admission_queue_is_a_503(start: StartCluster) -> None:
    import asyncio

    async with start(double={"max_concurrent": 1}, max_waiting=1) as cluster:
        first = asyncio.create_task(cluster.http.post("/v1/chat/completions", json=ask("wait")))
        await cluster.until(lambda: cluster.double.under_way == 1, "the first to reach the engine")
        others = [asyncio.create_task(cluster.http.post("/v1/chat/completions", json=ask("plain"))) for _ in range(2)]
        done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        away = done.pop().result()
        assert (away.status_code, away.json()["error"]["code"]) == (503, "model_overloaded")
        assert away.headers["retry-after"] == "1"
        cluster.double.go.set()
        answers = await asyncio.gather(first, *others)
        assert sorted(a.status_code for a in answers) == [200, 200, 503]


async def test_an_unreachable_engine_is_a_503_and_degrades_the_service(start: StartCluster, folder: Path) -> None:
    from drw.api.kernel.v1.kernel_pb2 import ServiceStatus

    async with start(double={"base_url": f"unix:{folder}/nobody"}) as cluster:
        with pytest.raises(openai.InternalServerError, match="does not answer") as caught:
            await cluster.client.chat.completions.create(**ask("plain"))
        assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
        states = {s.name: s for s in (await cluster.host.status()).services}
        assert states["serving"].state == ServiceStatus.DEGRADED
        assert "'double' does not answer" in states["serving"].detail


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"base_url": "unix:/nobody"}, "the engine of 'other' does not answer"),
        ({"api_key_variable": "NO_KEY"}, "the key for 'other' is missing: set NO_KEY"),
    ],
)
async def test_any_unhealthy_model_degrades_the_service(start: StartCluster, setting: dict[str, str], why: str) -> None:
    from drw.api.kernel.v1.kernel_pb2 import ServiceStatus

    async with start(fallback=setting) as cluster:
        (serving,) = [s for s in (await cluster.host.status()).services if s.name == "serving"]
        assert serving.state == ServiceStatus.DEGRADED
        assert why in serving.detail
        assert (await cluster.client.chat.completions.create(**ask("plain"))).choices


async def test_the_status_lists_the_models(cluster: ModelsCluster) -> None:
    states = {s.name: s.detail for s in (await cluster.host.status()).services}
    assert states["serving"] == "double (default), vectors"


async def test_an_answer_without_a_record_is_a_503(cluster: ModelsCluster) -> None:
    with psycopg.connect(cluster.database) as connection:
        connection.execute("alter table audit.inbox rename to away")
    answer = await cluster.http.post("/v1/chat/completions", json=ask("plain"))
    assert (answer.status_code, TEXT in answer.text) == (503, False)
    answer = await cluster.http.post("/v1/chat/completions", json=ask("plain", stream=True))
    assert "[DONE]" not in answer.text
    assert "audit" in answer.text


async def test_the_upstream_key_is_read_from_the_environment(
    start: StartCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(double={"api_key_variable": "DOUBLE_KEY"}) as cluster:
        with pytest.raises(openai.InternalServerError, match="set DOUBLE_KEY"):
            await cluster.client.chat.completions.create(**ask("plain"))
        monkeypatch.setenv("DOUBLE_KEY", "sk-1")
        await cluster.client.chat.completions.create(**ask("plain"))
        assert cluster.double.headers[-1]["Authorization"] == "Bearer sk-1"
