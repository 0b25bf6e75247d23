"""An experiment through a whole platform, as the how-to guide describes it: commands, OpenFeature client, results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from e2e.platform import Platform

GUIDE = Path(__file__).parents[2] / "docs/how-to/use/run-experiments.md"
UNITS = 150


@pytest.fixture(scope="module")
def running(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a running experiment with the definition of the guide."""
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path_factory.mktemp("experiments") / "definition.yaml"
    file.write_text(blocks[0])
    name = str(yaml.safe_load(blocks[0])["name"])
    assert "is a draft" in platform.run("experiments", "create", str(file)).stdout
    assert "is running" in platform.run("experiments", "start", name).stdout
    return name


def test_the_official_client_evaluates_through_the_gateway(platform: Platform, running: str, tmp_path: Path) -> None:
    kept = platform.credentials
    headers = {"Authorization": f"Bearer {kept['api_key']}"}
    provider = OFREPProvider(kept["url"], headers_factory=lambda: headers)
    outcomes = tmp_path / "outcomes.jsonl"
    with outcomes.open("w") as file:
        for number in range(UNITS):
            unit = f"user-{number}"
            model = provider.resolve_string_details(running, "none", EvaluationContext(unit)).value
            grade = 5 if model == "fast" else 1
            file.write(json.dumps({"unit": unit, "metric": "grade", "value": grade, "id": unit}) + "\n")
        file.write('{"unit": "never-seen", "metric": "grade", "value": 3}\n')
    recorded = platform.json("experiments", "record", running, str(outcomes))
    assert recorded == {"recorded": UNITS, "duplicates": 0, "not_exposed": 1}
    results = platform.json("experiments", "show", running)
    assert sum(arm["units"] for arm in results["arms"]) == UNITS
    grade = next(each for each in results["comparisons"] if each["metric"] == "grade")
    assert (grade["control_value"], grade["value"], grade["verdict"]) == (1.0, 5.0, "BETTER")
    shown = platform.run("experiments", "show", running).stdout
    assert re.search(r"grade +candidate +1 +5 +\+4 \[.*\] +\| *-*o-* +better", shown), shown


def test_a_key_needs_the_scope_to_evaluate(platform: Platform, running: str) -> None:
    created = platform.json("keys", "create", "--scope", "experiments:read")
    headers = {"Authorization": f"Bearer {created['secret']}"}
    url = f"{platform.credentials['url']}/ofrep/v1/evaluate/flags/{running}"
    body = {"context": {"targetingKey": "user-1"}}
    assert httpx.post(url, json=body, headers=headers).status_code == 403
    assert httpx.post(url, json=body).status_code == 401


def test_a_stopped_experiment_shows_its_reason(platform: Platform, running: str) -> None:
    platform.run("experiments", "stop", running, "--reason", "enough data")
    assert re.search(rf"{running} +stopped .* enough data", platform.run("experiments", "list").stdout)
    assert platform.json("experiments", "assign", running, "user-1")["in_experiment"] is False
    platform.run("experiments", "delete", running)
    assert platform.run("experiments", "show", running, check=False).returncode != 0
