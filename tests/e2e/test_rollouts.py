"""Experiments of an alias and rollouts through a whole platform, as the how-to guides describe them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.platform import DRW, Platform
from support.parts import wait_until

GUIDE = Path(__file__).parents[2] / "docs/how-to/use/run-experiments.md"
MODEL = "smollm2-135m-instruct"
CHAT: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 2}


@pytest.fixture(scope="module")
def alias(platform: Platform) -> Iterator[str]:
    """An alias of the bundled model."""
    platform.run("aliases", "set", "fast", "--target", f"{MODEL}=100")
    yield "fast"
    platform.run("aliases", "delete", "fast")


def chat(platform: Platform, user: str) -> httpx.Response:
    kept = platform.credentials
    headers = {"Authorization": f"Bearer {kept['api_key']}"}
    response = httpx.post(f"{kept['url']}/v1/chat/completions", json=CHAT | {"user": user}, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return response


def run_as(platform: Platform, secret: str, *args: str) -> str:
    """Run a command with another key, and return its output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DRW_")}
    env |= {"DRW_URL": platform.credentials["url"], "DRW_API_KEY": secret, "COLUMNS": "200"}
    result = subprocess.run([DRW, *args], capture_output=True, text=True, env=env, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_experiment_of_the_guide_measures_calls(platform: Platform, alias: str, tmp_path: Path) -> None:
    definition = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    file = tmp_path / "definition.yaml"
    file.write_text(definition)
    platform.run("experiments", "create", str(file))
    platform.run("experiments", "start", "terse-answers")
    wait_until(lambda: "x-experiment" in chat(platform, "user-0").headers, "an assigned call")
    answers = [chat(platform, f"user-{number}") for number in range(8)]
    assert {answer.headers["x-experiment"] for answer in answers} == {"terse-answers/control", "terse-answers/terse"}
    wait_until(lambda: delivery(platform)["recorded"] >= 9, "the exposures")
    call = answers[0].json()["id"]
    recorded = platform.run("experiments", "feedback", call, "grade", "4").stdout
    assert recorded == "recorded in terse-answers\n"
    shown = platform.run("experiments", "show", "terse-answers").stdout
    assert re.search(r"calls: \d+ recorded, 0 lost, 0 without a user", shown), shown
    platform.run("experiments", "stop", "terse-answers", "--reason", "done")
    platform.run("experiments", "delete", "terse-answers")


def delivery(platform: Platform) -> dict[str, int]:
    return dict(platform.json("experiments", "show", "terse-answers")["delivery"])


def test_two_persons_roll_out_a_model_by_command(platform: Platform, alias: str) -> None:
    ann, bob = [platform.json("keys", "create", "--scope", "platform:admin")["secret"] for _ in range(2)]
    create = ("rollouts", "create", "faster", "--alias", alias, "--model", MODEL, "--shadow", "100")
    assert "is a draft" in run_as(platform, ann, *create, "--unit", "request")
    assert "is approved" in run_as(platform, bob, "rollouts", "approve", "faster")
    assert "faster is shadow" in run_as(platform, ann, "rollouts", "start", "faster")

    def shadowed() -> bool:
        chat(platform, "user-1")
        return bool(platform.json("rollouts", "show", "faster")["shadow"]["compared"])

    wait_until(shadowed, "a shadow call", 60)
    assert "faster is shadow, paused" in run_as(platform, ann, "rollouts", "pause", "faster")
    assert "faster is ramp 1 %" in run_as(platform, ann, "rollouts", "advance", "faster")
    shown = platform.run("rollouts", "show", "faster").stdout
    assert re.search(r"shadow calls: \d+ compared, 0 failed", shown), shown
    assert re.search(r"advance +1 % +key_\w+ +advanced by hand", shown), shown
    assert "faster is rolled back" in run_as(platform, ann, "rollouts", "rollback", "faster", "--reason", "a drill")
    assert re.search(r"faster +rolled back .* a drill", platform.run("rollouts", "list").stdout)
    assert "rollout/faster" in platform.run("audit", "list", "--action", "rollout.rollback").stdout
