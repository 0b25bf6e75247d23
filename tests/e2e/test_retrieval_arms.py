"""An experiment with retrieval settings through a whole platform, as the guide describes it: arms cite differently."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.platform import Platform
from e2e.test_responses import FORMAT
from e2e.test_rollouts import GUIDE, MODEL, run_as
from support.parts import wait_until

NAME = "policies-only"
QUESTION = "Who signs a waiver of a risk limit?"
MEMO = (
    "Memo of the rates desk. Who signs a waiver of a risk limit? The head of the desk signs a waiver of a risk limit."
)
POLICY = "Market risk policy. Waivers end after ten trading days. The chief risk officer decides about them."


@pytest.fixture(scope="module")
def store(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The vector store of two documents, one of which is a policy, while the experiment of the guide runs."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "memo.txt").write_text(MEMO)
    (folder / "policy.txt").write_text(POLICY)
    platform.json("ingest", str(folder), "--collection", "waivers")
    documents = {each["title"]: each["id"] for each in platform.json("collections", "show", "waivers")}
    platform.run("collections", "update", "waivers", documents["policy.txt"], "--attribute", "kind=policy")
    platform.run("aliases", "set", "fast", "--target", f"{MODEL}=100")
    definition = next(
        block for block in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL) if NAME in block
    )
    file = Path(folder / "definition.yaml")
    file.write_text(definition)
    platform.run("experiments", "create", str(file))
    platform.run("experiments", "start", NAME)
    yield next(each["id"] for each in platform.json("collections", "list") if each["name"] == "waivers")
    platform.run("experiments", "stop", NAME, "--reason", "done")
    platform.run("experiments", "delete", NAME)
    platform.run("aliases", "delete", "fast")


def respond(platform: Platform, store: str, user: str) -> httpx.Response:
    kept = platform.credentials
    tool = {"type": "file_search", "vector_store_ids": [store]}
    body = {"model": "fast", "input": QUESTION, "user": user, "tools": [tool], "text": {"format": FORMAT}}
    headers = {"Authorization": f"Bearer {kept['api_key']}"}
    response = httpx.post(f"{kept['url']}/v1/responses", json=body, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return response


def cited(response: httpx.Response) -> list[str]:
    return [each["filename"] for each in response.json()["output"][1]["content"][0]["annotations"]]


def details(platform: Platform, action: str) -> list[dict[str, Any]]:
    records = platform.json("audit", "list", "--action", action)
    return [record["details"] for record in records if "experiment" in record["details"]]


def test_two_arms_cite_different_documents_and_take_feedback(platform: Platform, store: str) -> None:
    wait_until(lambda: "x-experiment" in respond(platform, store, "user-0").headers, "an assigned response")
    users = [f"user-{number}" for number in range(6)]
    answers = [respond(platform, store, user) for user in users]
    arms = [answer.headers["x-experiment"] for answer in answers]
    by_arm = dict(zip(arms, zip(users, answers, strict=True), strict=True))
    (control, without), (other, under) = by_arm[f"{NAME}/control"], by_arm[f"{NAME}/policies"]
    assert cited(without) == ["memo.txt"]
    assert cited(under) == ["policy.txt"]
    exposed = {
        each["experiment"]: each.get("retrieval_settings_sha256") for each in details(platform, "model.response")
    }
    assert exposed[f"{NAME}/control"] is None and len(str(exposed[f"{NAME}/policies"])) == 64

    def exposures() -> bool:
        return bool(platform.json("experiments", "show", NAME)["delivery"]["recorded"] >= len(users) + 1)

    wait_until(exposures, "the exposures")
    units = {each["arm"]: each["units"] for each in platform.json("experiments", "show", NAME)["arms"]}
    assert units == {arm: arms.count(f"{NAME}/{arm}") for arm in ("control", "policies")}
    feedback = ("experiments", "feedback", under.json()["id"], "grade", "5")
    assert platform.run(*feedback).stdout == f"recorded in {NAME}\n"
    assert "already" in platform.run(*feedback).stdout

    for user, arm, found in ((control, "control", {"memo.txt", "policy.txt"}), (other, "policies", {"policy.txt"})):
        asked = platform.json("ask", QUESTION, "--collection", "waivers", "--model", "fast", "--user", user)
        assert {passage["title"] for passage in asked["passages"]} == found
        assert {each["passage"]["title"] for each in asked["answer"]["citations"]} <= found
        assert asked["answer"]["experiment"] == f"{NAME}/{arm}"
        id_ = asked["answer"]["id"]
        recorded = ("experiments", "feedback", id_, "grade", "4")
        wait_until(lambda: platform.run(*recorded, check=False).returncode == 0, "feedback for the answer")  # noqa: B023
        assert details(platform, "collection.answer")[0]["experiment"] == f"{NAME}/{arm}"


def test_another_desk_gets_no_arm_and_cannot_give_feedback(platform: Platform, store: str) -> None:
    scopes = ("models:invoke", "documents:read", "experiments:record")
    granted = [part for scope in scopes for part in ("--scope", scope)]
    platform.json("desks", "put", "elsewhere", *granted)
    secret = platform.json("keys", "create", "--desk", "elsewhere", *granted)["secret"]
    ours = respond(platform, store, "user-0").json()["id"]
    with pytest.raises(AssertionError, match="no running experiment of the desk has the call"):
        run_as(platform, secret, "experiments", "feedback", ours, "grade", "1")
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"model": "fast", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "user": "user-0"}
    theirs = httpx.post(f"{platform.credentials['url']}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert theirs.status_code == 200 and "x-experiment" not in theirs.headers
