"""Each shipped template on the real model, by the command of its page: short, and grounded in quotes."""

from __future__ import annotations

import json
import re
import subprocess

import openai

from drw.local.paths import PlatformPaths
from e2e.platform import DRW, Platform
from e2e.templates.shipped_page import (
    ROOT,
    check_document,
    check_sentences,
    commands,
    environment,
    run_template,
    show,
)
from support.json_types import Json, JsonObject
from support.parts import wait_until

SHIPPED = sorted(file.stem for file in (ROOT / "src/drw/workflow/templates/shipped").glob("*.yaml"))
PERSON = [
    *("models:read", "models:write", "models:approve", "models:invoke"),
    *("workflows:read", "workflows:run", "workflows:approve", "documents:read", "documents:write"),
]


def output(platform: Platform, template: str) -> Json:
    run = run_template(platform, template)
    assert run["state"] == "SUCCEEDED", run
    return run["output"]


def person(platform: Platform) -> JsonObject:
    """Return a new key of another person, with its id."""
    scopes = [word for scope in PERSON for word in ("--scope", scope)]
    created: JsonObject = platform.json("keys", "create", *scopes)
    return created


def by(platform: Platform, key: JsonObject, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a person."""
    env = environment(platform, key["secret"])
    return subprocess.run([DRW, *args], env=env, capture_output=True, text=True, timeout=60)


def sections(text: str) -> dict[str, str]:
    """Return the sections of a document by heading."""
    parts = re.split(r"^## (.*)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_a_command_for_each_template() -> None:
    assert sorted(commands()) == SHIPPED


def test_a_digest_summarises_each_file(platform: Platform, client: openai.OpenAI) -> None:
    digest = output(platform, "digest")
    assert digest["text"].startswith("# News of the week\n\n3 documents.\n\n")
    assert list(sections(digest["text"])) == ["crude.txt", "northgate.txt", "rates.txt"]
    check_document(digest["text"].replace("3 documents.\n\n", ""))
    assert client.files.content(digest["file"]).text == digest["text"]


def test_an_earnings_digest_has_the_topics_of_each_call(platform: Platform, client: openai.OpenAI) -> None:
    (call,) = output(platform, "earnings_digest")
    assert call["call"] == "northgate-call-2026-q1.txt"
    document = client.files.content(call["file"]).text
    parts = sections(document)
    assert list(parts) == ["Summary", *call["topics"]] == ["Summary", "guidance", "electricity"]
    assert set(check_document(document)) == {"northgate-call-2026-q1.txt"}
    marked = [parts[topic].count("_Not supported:_") for topic in call["topics"]]
    assert call["not_supported"] == marked
    assert all(map(sum, zip(call["supported"], call["not_supported"], strict=True)))


def test_a_comparison_quotes_both_filings_for_each_topic(platform: Platform) -> None:
    report = output(platform, "compare_filings")
    parts = sections(report["text"])
    assert list(parts) == ["revenue and net income", "risk factors"]
    for text in parts.values():
        assert set(check_document(text)) == {"northgate-2025-q4.txt", "northgate-2026-q1.txt"}
    assert "Revenue was USD 774 million" in report["text"] and "Revenue was USD 812 million" in report["text"]


def test_the_inbox_is_sorted_into_collections(platform: Platform, client: openai.OpenAI) -> None:
    items = output(platform, "research_inbox")
    assert [item["name"] for item in items] == ["crude.txt", "northgate.txt", "rates.txt"]
    stores = {store.name: store.id for store in client.vector_stores.list()}
    for item in items:
        assert check_sentences(item["sentences"])
        indexed = client.vector_stores.files.list(stores[f"inbox-{item['subject']}"])
        assert item["file"] in {file.id for file in indexed}


def test_a_news_brief_has_a_section_for_each_topic(platform: Platform) -> None:
    brief = output(platform, "news_brief")
    assert list(sections(brief["text"])) == ["company results", "central banks and interest rates", "commodities"]
    assert set(check_document(brief["text"])) >= {"crude.txt", "northgate.txt", "rates.txt"}


def test_a_risk_memo_waits_for_another_key(platform: Platform) -> None:
    platform.run("ingest", str(ROOT / "src/drw/demo/documents/risk-policy.md"), "--collection", "policies")
    starter, other = person(platform), person(platform)
    run = run_template(platform, "risk_memo", starter["secret"])["id"]
    wait_until(lambda: any(a["run"] == run for a in platform.json("runs", "approvals")), "the approval", 60)
    (approval,) = [a for a in platform.json("runs", "approvals") if a["run"] == run]
    assert check_sentences(approval["details"]["sentences"])
    assert by(platform, starter, "runs", "approve", run, "sign").returncode != 0  # the same key
    assert by(platform, other, "runs", "approve", run, "sign").returncode == 0
    platform.run("runs", "watch", run)
    memo = show(platform, run)["output"]
    assert memo["approved_by"] == [other["key"]["id"]]
    assert "risk-policy.md" in check_document(memo["text"])


def registered(platform: Platform, key: JsonObject) -> str:
    """Register the engine of the bundled model as a version; return its id."""
    result = by(
        *(platform, key, "models", "register", "--name", "small", "--kind", "chat", "--owner", "research", "--json"),
        *("--endpoint", f"unix:{PlatformPaths(platform.data).engine}", "--upstream-model", "smollm2-135m-instruct"),
    )
    assert result.returncode == 0, result.stderr
    return str(json.loads(result.stdout)["id"])


def test_a_model_is_promoted_only_with_a_record_and_by_a_second_person(platform: Platform) -> None:
    ann, bob, cleo = (person(platform) for _ in range(3))
    candidate = registered(platform, ann)
    refused = run_template(platform, "promote_model", ann["secret"], VERSION=candidate)["id"]
    platform.run("runs", "watch", refused, check=False)
    assert "it has no approved validation record" in show(platform, refused)["error"]

    record = ("--scope", "not-in-scope", "--scope-reason", "generative", "--owner", "research", "--expires", "30d")
    assert by(platform, bob, "models", "validate", candidate, *record).returncode == 0
    assert by(platform, cleo, "models", "approve", candidate).returncode == 0
    run = run_template(platform, "promote_model", ann["secret"], VERSION=candidate)["id"]
    pending = ("models", "promotions", "--state", "pending")
    wait_until(lambda: bool(platform.json(*pending)), "the promotion", 60)
    (promotion,) = platform.json(*pending)
    assert (promotion["version"], promotion["requested_by"]) == (candidate, ann["key"]["id"])
    assert run in promotion["reason"]
    same_person = by(platform, ann, "models", "approve-promotion", promotion["id"])
    assert same_person.returncode != 0 and "another person must do it" in same_person.stderr
    assert by(platform, cleo, "models", "approve-promotion", promotion["id"]).returncode == 0
    platform.run("runs", "watch", run)
    ended = show(platform, run)["output"]
    assert (ended["promotion"]["state"], ended["promotion"]["decided_by"]) == ("APPROVED", cleo["key"]["id"])
    assert [answer["prompt"][:4] for answer in ended["answers"]] == ["What", "What", "How "]
    version = platform.json("models", "show", candidate)
    assert version["aliases"] == ["desk-chat"]
    assert [evaluation["data"] for evaluation in version["evaluations"]] == [run]
    assert version["evaluations"][0]["metrics"] == {"accuracy": ended["correct"]["accuracy"], "questions": 3}
