"""The kill switch, as an operator pulls it: by the command, on a live stream."""

from __future__ import annotations

from functools import partial
from typing import Any

import openai
import pytest

from support.parts import wait_until
from support.platform import Platform

ASKED: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Count from one to a thousand."}],
    "max_tokens": 1500,
    "logit_bias": {"2": -100},  # the token that ends an answer: it goes on until it is cut
}


def test_a_desk_is_killed_in_the_middle_of_a_stream_and_comes_back(platform: Platform) -> None:
    platform.run("desks", "put", "doomed", "--scope", "models:invoke")
    made = platform.json("keys", "create", "--desk", "doomed", "--scope", "models:invoke")
    with platform.client(made["secret"]) as client:
        stream = client.chat.completions.create(**ASKED, stream=True)
        assert next(stream).choices
        said = platform.run("kill", "--desk", "doomed", "--reason", "a drill").stdout
        kill = said.partition(":")[0]
        assert "the desk doomed is killed" in said
        with pytest.raises(openai.APIError) as cut:
            for _ in stream:
                pass
        assert cut.value.code == "killed"
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.chat.completions.create(**ASKED)
        assert refused.value.code == "killed"
        assert "a drill" in platform.run("kill", "list").stdout
        assert "your own desk" in platform.run("kill", "--desk", "research", "--reason", "x", check=False).stderr
        unknown = platform.run("kill", "--model", "no-such-model", "--reason", "a drill")
        assert "no model 'no-such-model' exists" in unknown.stderr
        platform.run("kill", "lift", unknown.stdout.partition(":")[0], "--reason", "a typing mistake")
        assert "is lifted" in platform.run("kill", "lift", kill, "--reason", "the drill is over").stdout

        def answers() -> bool:
            try:
                return bool(client.chat.completions.create(**{**ASKED, "max_tokens": 1}).choices)
            except openai.PermissionDeniedError:
                return False

        wait_until(answers, "the answer after the lift")
    assert platform.run("kill", "list").stdout.strip() == "nothing is killed"
    for action, resource in (("kill.kill", "desk/doomed"), ("kill.lift", "desk/doomed")):
        wait_until(partial(_is_audited, platform, action, resource), f"{action} in the audit log")


def _audited(platform, action):
    return {record["resource"] for record in platform.json("audit", "list", "--action", action)}


def _is_audited(platform: Platform, action: str, resource: str) -> bool:
    return resource in _audited(platform, action)
