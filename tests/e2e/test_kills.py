"""The kill switch by command, during a stream."""

from __future__ import annotations

from functools import partial

import openai
import pytest

from e2e.platform import Platform
from support.json_types import JsonObject
from support.parts import wait_until

CHAT_REQUEST: JsonObject = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Count from one to a thousand."}],
    "max_tokens": 1500,
    "logit_bias": {"2": -100},  # never emit the end token, so the answer runs until it is cut
}


def test_kill_of_a_desk_ends_its_stream_until_it_is_lifted(platform: Platform) -> None:
    platform.run("desks", "put", "doomed", "--scope", "models:invoke")
    created = platform.json("keys", "create", "--desk", "doomed", "--scope", "models:invoke")
    with platform.client(created["secret"]) as client:
        stream = client.chat.completions.create(**CHAT_REQUEST, stream=True)
        assert next(stream).choices
        output = platform.run("kill", "--desk", "doomed", "--reason", "a drill").stdout
        kill = output.partition(":")[0]
        assert "the desk doomed is killed" in output
        with pytest.raises(openai.APIError) as stream_error:
            for _ in stream:
                pass
        assert stream_error.value.code == "killed"
        with pytest.raises(openai.PermissionDeniedError) as denied:
            client.chat.completions.create(**CHAT_REQUEST)
        assert denied.value.code == "killed"
        assert "a drill" in platform.run("kill", "list").stdout
        assert "your own desk" in platform.run("kill", "--desk", "research", "--reason", "x", check=False).stderr
        unknown = platform.run("kill", "--model", "no-such-model", "--reason", "a drill")
        assert "no model 'no-such-model' exists" in unknown.stderr
        platform.run("kill", "lift", unknown.stdout.partition(":")[0], "--reason", "a typing mistake")
        assert "is lifted" in platform.run("kill", "lift", kill, "--reason", "the drill is over").stdout

        def chat_succeeds() -> bool:
            try:
                return bool(client.chat.completions.create(**{**CHAT_REQUEST, "max_tokens": 1}).choices)
            except openai.PermissionDeniedError:
                return False

        wait_until(chat_succeeds, "the answer after the lift")
    assert platform.run("kill", "list").stdout.strip() == "nothing is killed"
    for action, resource in (("kill.kill", "desk/doomed"), ("kill.lift", "desk/doomed")):
        wait_until(partial(is_audited, platform, action, resource), f"{action} in the audit log")


def audited_resources(platform: Platform, action: str) -> set[str]:
    return {record["resource"] for record in platform.json("audit", "list", "--action", action)}


def is_audited(platform: Platform, action: str, resource: str) -> bool:
    return resource in audited_resources(platform, action)
