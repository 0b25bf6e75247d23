"""What a user sees when parts die, input is hostile, or the platform is told to stop."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from typing import Any

import openai
import psutil
import pytest

from support.parts import short_folder, wait_until
from support.platform import DRW, Platform

ASKED: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 4,
}


def test_a_killed_engine_is_named_and_comes_back(platform: Platform, client: openai.OpenAI) -> None:
    took = json.loads((platform.data / "starts.json").read_text())["engine"]
    os.kill(platform.pid("engine"), signal.SIGKILL)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**ASKED)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) == max(1, math.ceil(took))
    assert "smollm2-135m-instruct" in _message(caught.value)
    wait_until(lambda: _answers(client), "the engine", 60)


def test_a_killed_rag_process_is_named_and_model_calls_go_on(platform: Platform, client: openai.OpenAI) -> None:
    os.kill(platform.pid("rag"), signal.SIGKILL)
    with pytest.raises(openai.InternalServerError) as caught:
        client.embeddings.create(model="all-minilm-l6-v2", input="x")
    assert caught.value.status_code == 503
    assert "embedding" in _message(caught.value)
    with pytest.raises(openai.InternalServerError, match="rag"):
        client.files.list()
    assert client.chat.completions.create(**ASKED).choices
    wait_until(lambda: platform.json("status", check=False)["healthy"], "the rag services", 60)


def test_a_mistake_in_the_settings_hides_nothing_of_what_runs(platform: Platform) -> None:
    settings = platform.data / "drw.toml"
    before = settings.read_text()
    settings.write_text(f"{before}speed = 3\n[[")
    try:
        found = platform.json("status")
    finally:
        settings.write_text(before)
    assert found["healthy"] and found["services"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.pdf", b"this is no PDF"),
        ("empty.txt", b""),
        ("../../etc/passwd", b"root"),
        ("program.exe", b"MZ\x00\x01"),
        ("broken.docx", b"PK\x03\x04 and nothing more"),
    ],
)
def test_hostile_files_are_refused_with_a_reason(client: openai.OpenAI, name: str, content: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=(name, content), purpose="assistants")
    assert _message(caught.value)
    assert name not in {f.filename for f in client.files.list()}


def test_ctrl_c_stops_everything() -> None:
    with short_folder() as folder:
        platform = Platform(folder / "data")
        command = [DRW, "up", "--port", "0", "--data-dir", str(platform.data)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
            assert up.stdout is not None
            lines = iter(up.stdout.readline, "")
            assert any("Your first API key" in line for line in lines)
            children = psutil.Process(up.pid).children(recursive=True)
            assert len(children) >= 9
            assert platform.json("status")["healthy"]
            up.send_signal(signal.SIGINT)
            rest = up.stdout.read()
            assert up.wait(60) == 0, rest
        assert "Traceback" not in rest
        assert psutil.wait_procs(children, timeout=5)[1] == []


def _message(error: openai.APIStatusError) -> str:
    assert isinstance(error.body, dict)
    return str(error.body["message"])


def _answers(client: openai.OpenAI) -> bool:
    try:
        return bool(client.chat.completions.create(**ASKED).choices)
    except openai.InternalServerError:
        return False
