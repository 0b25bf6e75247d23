"""What a user sees when processes die, input is invalid, or the platform stops."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess

import openai
import psutil
import pytest

from e2e.platform import DRW, Platform
from support.json_types import JsonObject
from support.parts import short_folder, wait_until

CHAT_REQUEST: JsonObject = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 4,
}


def test_killed_engine_is_named_and_restarted(platform: Platform, client: openai.OpenAI) -> None:
    start_seconds = json.loads((platform.data / "starts.json").read_text())["engine"]
    os.kill(platform.pid("engine"), signal.SIGKILL)
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(**CHAT_REQUEST)
    assert raised.value.status_code == 503
    assert int(raised.value.response.headers["retry-after"]) == max(1, math.ceil(start_seconds))
    assert "smollm2-135m-instruct" in error_message(raised.value)
    wait_until(lambda: chat_succeeds(client), "the engine", 60)


def test_model_calls_work_while_a_killed_rag_process_restarts(platform: Platform, client: openai.OpenAI) -> None:
    os.kill(platform.pid("rag"), signal.SIGKILL)
    with pytest.raises(openai.InternalServerError) as raised:
        client.embeddings.create(model="all-minilm-l6-v2", input="x")
    assert raised.value.status_code == 503
    assert "embedding" in error_message(raised.value)
    with pytest.raises(openai.InternalServerError, match="rag"):
        client.files.list()
    assert client.chat.completions.create(**CHAT_REQUEST).choices
    wait_until(lambda: platform.json("status", check=False)["healthy"], "the rag services", 60)


def test_status_works_with_invalid_settings(platform: Platform) -> None:
    settings = platform.data / "drw.toml"
    original = settings.read_text()
    settings.write_text(f"{original}speed = 3\n[[")
    try:
        result = platform.json("status")
    finally:
        settings.write_text(original)
    assert result["healthy"] and result["services"]


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
def test_invalid_files_are_rejected_with_a_reason(client: openai.OpenAI, name: str, content: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.files.create(file=(name, content), purpose="assistants")
    assert error_message(raised.value)
    assert name not in {f.filename for f in client.files.list()}


def test_ctrl_c_stops_every_process() -> None:
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
            output = up.stdout.read()
            assert up.wait(60) == 0, output
        assert "Traceback" not in output
        assert psutil.wait_procs(children, timeout=5)[1] == []


def error_message(error: openai.APIStatusError) -> str:
    assert isinstance(error.body, dict)
    return str(error.body["message"])


def chat_succeeds(client: openai.OpenAI) -> bool:
    try:
        return bool(client.chat.completions.create(**CHAT_REQUEST).choices)
    except openai.InternalServerError:
        return False
