"""Each template of the documentation runs to its end, with the commands that its page shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from e2e.platform import Platform
from e2e.templates.examples import HOST, ROOT, Example, examples
from e2e.templates.shipped_page import environment, show
from support.parts import wait_until

EXAMPLES = examples()
PERSON = ("workflows:run", "workflows:read", "workflows:approve", "limits:write")
FOLDER = "src/drw/demo/workflows/news"


def test_the_pages_have_examples() -> None:
    assert {"brief", "limit_waivers", "daily_pnl", "place_order"} <= {example.name for example in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_runs_to_its_end(platform: Platform, system: str, example: Example, tmp_path: Path) -> None:
    file = tmp_path / f"{example.name}.yaml"
    file.write_text(HOST.sub(system, example.source), encoding="utf-8")
    platform.run("templates", "put", str(file))
    starter = person(platform) if example.follows else ""  # the administrator makes the keys of those who decide
    for command in example.starts:
        bash(platform, command.replace("FOLDER", FOLDER), starter)
    listed = ("runs", "list", "--template", example.name)
    wait_until(lambda: bool(platform.json(*listed)), "the run", 60)
    run = platform.json(*listed)[0]["id"]
    for command in example.follows:
        follow(platform, run, command.replace(" RUN ", f" {run} "))
    platform.run("runs", "watch", run, check=False)
    ended = show(platform, run)
    assert ended["state"] == "SUCCEEDED", ended
    assert example.output is None or ended["output"] == example.output


def follow(platform: Platform, run: str, command: str) -> None:
    """Signal a run, or decide its approval with as many keys as it needs."""
    if command.startswith("drw runs signal "):
        bash(platform, command)
        return
    step = command.split()[4]

    def waits() -> bool:
        return any((a["run"], a["step"]) == (run, step) for a in platform.json("runs", "approvals"))

    wait_until(waits, f"the approval {step}", 60)
    while waits():
        bash(platform, command, person(platform))


def person(platform: Platform) -> str:
    """Return a key of another person."""
    scopes = [word for scope in PERSON for word in ("--scope", scope)]
    return str(platform.json("keys", "create", *scopes)["secret"])


def bash(platform: Platform, command: str, key: str = "") -> None:
    """Run a command as a person, in the root of the repository."""
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(platform, key), capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
