"""Batches on the whole platform: through Envoy, on the command line, with the bundled model, after a kill."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import openai

from e2e.platform import Platform
from support.parts import wait_until

REQUESTS = 60


def test_a_batch_survives_a_killed_models_process(platform: Platform, client: openai.OpenAI, tmp_path: Path) -> None:
    body = {"model": "smollm2-135m-instruct", "prompt": "Rates", "max_tokens": 1}
    lines = [{"custom_id": f"r-{n}", "method": "POST", "url": "/v1/completions", "body": body} for n in range(REQUESTS)]
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    batch = platform.json("batches", "create", str(file), "--endpoint", "/v1/completions", "--metadata", "a=b")["id"]

    def counts() -> tuple[str, int]:
        try:
            shown = client.batches.retrieve(batch)
        except openai.InternalServerError:
            return "unavailable", 0
        assert shown.request_counts is not None
        return shown.status, shown.request_counts.completed

    wait_until(lambda: counts()[1] >= 5, "the first answers", 60)
    os.kill(platform.pid("models"), signal.SIGKILL)
    wait_until(lambda: counts()[0] == "completed", "the end of the batch", 120)
    assert [line["id"] for line in platform.json("batches", "list")] == [batch]
    assert f"{REQUESTS} of {REQUESTS}" in platform.run("batches", "list").stdout
    paths = platform.run("batches", "download", batch, "--to", str(tmp_path / "out")).stdout.split()
    results = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    assert Counter(result["custom_id"] for result in results) == Counter(line["custom_id"] for line in lines)
    assert {result["response"]["status_code"] for result in results} == {200}
    assert "is completed" in platform.run("batches", "cancel", batch, check=False).stderr
    records = platform.json("audit", "list", "--limit", "200")
    of_batch = [r for r in records if r["details"].get("batch") == batch and r["outcome"] == "ok"]
    assert Counter(record["details"]["line"] for record in of_batch) == Counter(range(1, REQUESTS + 1))


def test_reranking_and_tokens_through_the_gateway(client: openai.OpenAI) -> None:
    documents = ["Copper fell.", "Interest rates rose sharply."]
    body = {"model": "all-minilm-l6-v2", "query": "Did interest rates rise?", "documents": documents}
    ranked = client.post("/rerank", body=body, cast_to=object)
    assert isinstance(ranked, dict) and [one["index"] for one in ranked["results"]] == [1, 0]
    tokens = client.post("/tokenize", body={"model": "smollm2-135m-instruct", "prompt": "Rates rose"}, cast_to=object)
    assert isinstance(tokens, dict) and tokens["count"] == len(tokens["tokens"]) > 0
