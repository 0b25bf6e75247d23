"""The engine process: weights, settings, signals and crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import orjson
import psutil
import pytest

from drw.models.engine import weights as engine_weights
from drw.models.engine.weights import WeightsError, prepare
from models.cluster import StartCluster, running_engine
from support.json_types import JsonObject
from support.parts import wait_until

STORY: JsonObject = {"model": "small", "messages": [{"role": "user", "content": "Tell a long story."}]}


def test_prepared_weights_are_not_converted_again(weights: Path) -> None:
    progress: list[str] = []
    before = weights.stat().st_mtime_ns
    assert prepare(weights.parent, progress.append) == weights
    assert (progress, weights.stat().st_mtime_ns) == ([], before)


def test_weights_with_another_checksum_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_weights, "GGUF_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="install the package again"):
        prepare(tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_the_error_names_the_missing_weights_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_weights, "PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match="'no_such_package'"):
        prepare(tmp_path, lambda line: None)


def test_the_engine_does_not_expose_requests_of_others(engine: Path) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(engine)), base_url="http://engine") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/slots").status_code == 501
        assert client.get("/", headers={"accept": "text/html"}).status_code == 404
        assert not client.get("/health", headers={"origin": "http://x"}).headers.get("access-control-allow-origin")
    assert engine.stat().st_mode & 0o077 == 0


def test_a_file_that_is_not_a_model_ends_with_a_message(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "text.gguf"
    file.write_text("no model")
    command = [sys.executable, "-m", "drw.models.engine", "--model", str(file), "--socket", str(folder / "x.sock")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "cannot be served" in ended.stderr


def test_the_engine_logs_ready_and_ends_on_sigterm(weights: Path, folder: Path) -> None:
    socket = folder / "own.sock"
    with running_engine(weights, socket) as process:
        log = socket.with_suffix(".log")
        wait_until(lambda: '"ready"' in log.read_text(), "the line that says so")
        (ready,) = (orjson.loads(x) for x in log.read_text().splitlines() if '"ready"' in x)
        assert ready["socket"] == str(socket)
        process.terminate()
        assert process.wait(10) == 0
        assert not socket.exists()


def test_the_engine_ends_with_its_parent_process(weights: Path, folder: Path) -> None:
    socket = folder / "orphan.sock"
    engine = [sys.executable, "-m", "drw.models.engine", "--model", str(weights), "--socket", str(socket)]
    parent = f"import subprocess, time; print(subprocess.Popen({engine!r}).pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        wait_until(socket.exists, "the engine")
        started.kill()
    wait_until(lambda: not _alive(pid), "the end of the engine")


async def test_a_crash_during_responses_returns_errors_and_the_engine_restarts(
    weights: Path, folder: Path, start: StartCluster
) -> None:
    socket = folder / "dies.sock"
    with running_engine(weights, socket) as process:
        never = {"consecutive_failures": 1000, "window": 1000}  # a circuit would tell of itself
        async with start(small=socket, circuits=never) as cluster:
            streams = [await cluster.client.chat.completions.create(**STORY, stream=True) for _ in range(3)]
            for stream in streams:
                assert (await anext(aiter(stream))).choices
            os.kill(process.pid, signal.SIGKILL)
            for stream in streams:
                with pytest.raises(openai.APIError, match="ended in the middle"):
                    async for _ in stream:
                        pass
            with pytest.raises(openai.InternalServerError) as caught:
                await cluster.client.chat.completions.create(**STORY)
            assert caught.value.status_code == 503 and int(caught.value.response.headers["retry-after"]) >= 1
            assert [r["outcome"] for r in cluster.records()] == ["failed"] * 4
            process.wait()
            with running_engine(weights, socket):
                patient = cluster.client.with_options(max_retries=5)  # after as long as the platform says
                again = await patient.chat.completions.create(**STORY, max_tokens=2)
                assert again.choices[0].finish_reason == "length"


async def test_a_disconnected_caller_frees_the_engine(weights: Path, folder: Path, start: StartCluster) -> None:
    socket = folder / "leaves.sock"
    with running_engine(weights, socket) as process:
        async with start(small=socket) as cluster:
            async with cluster.http.stream("POST", "/v1/chat/completions", json=STORY | {"stream": True}) as answer:
                await anext(answer.aiter_lines())
            records: list[JsonObject] = []

            def arrived() -> bool:
                records.extend(cluster.records())
                return bool(records)

            await cluster.until(arrived, "the record")
            assert [r["outcome"] for r in records] == ["client_gone"]
            await cluster.until(lambda: _idle(process.pid), "the engine to fall idle")


def _idle(pid: int) -> bool:
    """Tell whether the process used less than a tenth of a processor for a while."""
    return psutil.Process(pid).cpu_percent(0.2) < 10


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
