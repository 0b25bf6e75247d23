"""Commands of the model registry: what they send, and what they print of the answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from drw.cli.api import Api
from drw.cli.main import make_app
from drw.kernel.errors import InvalidRequest
from drw.local.credentials import Credentials
from support.json_types import Json, JsonObject

ID = "fraud@3f9a0c1d2e4b"
VERSIONS = "/api/v1/model-versions"
VERSION: JsonObject = {
    "id": ID,
    "digest": "sha256:3f9a0c1d2e4b",
    "stage": "APPROVED",
    "blocked": "",
    "kind": "PREDICTIVE",
    "engine": "onnx",
    "owner": "credit research",
    "description": "Estimates fraud.",
    "licence": "",
    "signer": "",
    "aliases": ["prod"],
    "format": "onnx",
    "architecture": "",
    "parameters": 71,
    "context_length": 0,
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [],
    "lineage": {"data": ["ledger"], "parent": "fraud@1", "training_run": ""},
    "registered_at": "2026-11-03T14:31:00Z",
    "registered_by": "key_a",
    "evaluations": [{"suite": "backtest", "metrics": {"auc": 0.91}}],
    "validations": [
        {
            "id": "val_1",
            "validator": "key_b",
            "approved_by": "key_c",
            "revoke_reason": "",
            "record": {
                "scope": "IN_SCOPE",
                "scope_reason": "it estimates",
                "purpose": "hold orders",
                "exposure": "2 million",
                "materiality": "HIGH",
                "owner": "head",
                "assumptions": [],
                "limits": ["not for derivatives"],
                "findings": [
                    {"title": "drift", "severity": "HIGH", "due_at": "2026-12-31T00:00:00Z", "resolved": False}
                ],
                "review_triggers": [],
                "expires_at": "2027-06-30T00:00:00Z",
            },
        }
    ],
}
PROMOTION: JsonObject = {
    **{"id": "pro_1", "alias": "prod", "version": ID, "state": "PENDING", "requested_by": "key_a"},
    **{"decided_by": "", "reason": "better recall"},
}
ENTRY: JsonObject = {
    **{"valid_from": "2026-11-03T14:31:00Z", "targets": [{"model": ID}], "changed_by": "key_c"},
    **{"promotion": "pro_1", "reason": "better recall"},
}
RECORD = [
    *("--scope", "in-scope", "--scope-reason", "it estimates", "--purpose", "hold orders", "--exposure", "2 million"),
    *("--materiality", "high", "--owner", "head", "--assumption", "a", "--assumption", "b", "--limit", "none"),
    *("--finding", "high:2026-12-31:drift: slow", "--resolved-finding", "low:2026-12-30:typo"),
    *("--expires", "2027-06-30", "--review-trigger", "losses"),
]


@dataclass
class DoubleRegistry:
    """A double of the REST API: keeps the requests, and answers as the registry does."""

    calls: list[tuple[str, str, Json]] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(404)
        path = request.url.path
        is_json = request.headers.get("content-type") == "application/json"
        body = json.loads(request.content) if is_json else request.content.decode()
        self.calls.append((request.method, path, body or dict(request.url.params)))
        if path.endswith("/history"):
            return httpx.Response(200, json={"entries": [ENTRY]})
        if path.startswith("/api/v1/promotions"):
            return httpx.Response(200, json={"promotions": [PROMOTION]} if request.method == "GET" else PROMOTION)
        return httpx.Response(200, json=VERSION)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[DoubleRegistry]:
    double = DoubleRegistry()
    api = Api(Credentials("http://gateway", "secret"))
    api._client = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(double.answer))
    monkeypatch.setattr(Api, "of", lambda data_dir: api)
    yield double


def run(*args: str) -> Result:
    return CliRunner().invoke(make_app(), ["models", *args])


def printed(*args: str) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def test_register_uploads_the_files_and_sends_what_is_known_of_them(registry: DoubleRegistry, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    output = printed(
        *("register", str(tmp_path), "--name", "fraud", "--kind", "predictive", "--owner", "credit"),
        *("--data", "ledger", "--parent", "fraud@1", "--price", "0.10/0.40"),
    )
    assert output == f"{ID} is approved: sha256:3f9a0c1d2e4b\n"
    upload, register = registry.calls
    assert upload == ("PUT", f"/api/v1/model-files/{sha256}", "weights")
    body = register[2]
    assert (register[:2], body["kind"], body["lineage"]["data"]) == (("POST", VERSIONS), "PREDICTIVE", ["ledger"])
    assert body["files"] == [{"path": "model.onnx", "sha256": sha256}]
    assert body["price"] == {"prompt_usd_per_million": "0.10", "completion_usd_per_million": "0.40"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["register", "--name", "fraud"], "give --name, --kind and --owner"),
        (["register", "--name", "f", "--kind", "chat", "--owner", "o"], "exactly one of them"),
        (["register", "/nothing", "--name", "f", "--kind", "chat", "--owner", "o"], "/nothing does not exist"),
        (["evaluate", ID, "--suite", "s", "--metric", "auc"], "'auc' is not a figure"),
        (["validate", ID], "give the fields of the record as options, or --file"),
        (["validate", ID, "--expires", "soon"], "'soon' is not a date or duration: use for example 2027-06-30 or 180d"),
        (["validate", ID, "--finding", "high:drift"], "'high:drift' is not a finding"),
        (["validate", ID, "--finding", "grave:90d:drift"], "'grave:90d:drift' is not a finding"),
        (["validate", ID, "--finding", "high:2026-12-31T00:00Z:drift"], "is not a finding"),
        (["validate", ID, "--finding", "high:2026-13-31:drift"], "'2026-13-31' is not a date"),
        (["history", "prod", "--at", "noon"], "'noon' is not a time"),
    ],
)
def test_incomplete_commands_send_nothing(registry: DoubleRegistry, args: list[str], message: str) -> None:
    result = run(*args)
    assert isinstance(result.exception, InvalidRequest) and message in result.exception.message
    assert registry.calls == []


def test_validate_sends_the_fields_of_the_record(registry: DoubleRegistry) -> None:
    assert printed("validate", ID, *RECORD) == f"the record of {ID} waits for approval\n"
    due, resolved = "2026-12-31T00:00:00+00:00", "2026-12-30T00:00:00+00:00"
    record = {
        "scope": "IN_SCOPE",
        "scope_reason": "it estimates",
        "purpose": "hold orders",
        "exposure": "2 million",
        "materiality": "HIGH",
        "owner": "head",
        "assumptions": ["a", "b"],
        "limits": ["none"],
        "findings": [
            {"severity": "HIGH", "due_at": due, "title": "drift: slow", "resolved": False},
            {"severity": "LOW", "due_at": resolved, "title": "typo", "resolved": True},
        ],
        "expires_at": "2027-06-30T00:00:00+00:00",
        "review_triggers": ["losses"],
    }
    assert registry.calls == [("PUT", f"{VERSIONS}/{ID}/validation", {"record": record})]


@pytest.mark.parametrize("name", ["record.yaml", "record.json"])
def test_options_replace_the_fields_of_a_file(registry: DoubleRegistry, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"purpose": "old", "limits": ["one", "two"], "expires_at": "2027-06-30T00:00:00Z"}')
    before = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    printed("validate", ID, "--file", str(file), "--purpose", "new", "--expires", "90d")
    record = registry.calls[0][2]["record"]
    assert (record["purpose"], record["limits"]) == ("new", ["one", "two"])
    assert before <= datetime.fromisoformat(record["expires_at"]) <= before + timedelta(minutes=5)


@pytest.mark.parametrize(("text", "message"), [("[1]", "has no fields"), ("a: [", "is not YAML")])
def test_a_file_that_is_no_record_is_an_error(
    registry: DoubleRegistry, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "record.yaml").write_text(text)
    result = run("validate", ID, "--file", str(tmp_path / "record.yaml"))
    assert isinstance(result.exception, InvalidRequest) and message in result.exception.message


@pytest.mark.parametrize(
    ("args", "path", "body", "output"),
    [
        (["approve", ID], f"{VERSIONS}/{ID}:approve", {}, f"{ID} is approved\n"),
        (["revoke", ID, "--reason", "r"], f"{VERSIONS}/{ID}:revoke", {"reason": "r"}, f"{ID} is approved\n"),
        (["retire", ID, "--reason", "r"], f"{VERSIONS}/{ID}:retire", {"reason": "r"}, f"{ID} is approved\n"),
        (
            ["delete-files", ID, "--reason", "r"],
            f"{VERSIONS}/{ID}:deleteFiles",
            {"reason": "r"},
            f"the files of {ID} are deleted\n",
        ),
        (
            ["promote", "prod", ID, "--reason", "r"],
            "/api/v1/promotions",
            {"alias": "prod", "version": ID, "reason": "r"},
            "pro_1 is pending; another person runs: drw models approve-promotion pro_1\n",
        ),
        (["approve-promotion", "pro_1"], "/api/v1/promotions/pro_1:approve", {}, f"pro_1 is pending: prod to {ID}\n"),
    ],
)
def test_decisions_are_posted(
    registry: DoubleRegistry, args: list[str], path: str, body: JsonObject, output: str
) -> None:
    assert printed(*args) == output
    assert registry.calls == [("POST", path, body)]


def test_promotions_and_history_are_tables(registry: DoubleRegistry) -> None:
    assert printed("promotions", "--state", "pending").splitlines()[1].split() == [
        *("pro_1", "prod", ID, "pending", "key_a", "better", "recall")
    ]
    head, row = printed("history", "prod", "--at", "2026-11-03T14:31Z").splitlines()
    assert head.split() == ["FROM", "TO", "NAMES", "CHANGED", "BY", "REASON"]
    assert row.split() == ["2026-11-03", "14:31:00", ID, "key_c", "pro_1", "better", "recall"]
    assert [call[2] for call in registry.calls] == [
        {"page_size": "100", "state": "PENDING"},
        {"page_size": "100", "at": "2026-11-03T14:31:00+00:00"},
    ]


def test_a_card_has_every_part_of_the_record(registry: DoubleRegistry, tmp_path: Path) -> None:
    card = printed("card", ID)
    for line in (
        f"# {ID}",
        "- Traffic: permitted",
        "- Input: x: FP32 [-1, 4]",
        "- Parent: fraud@1",
        "- backtest: auc 0.91",
        "- Scope: in scope: it estimates",
        "- Materiality: high",
        "- Finding: drift (high, due 2026-12-31)",
        "- Expires: 2027-06-30T00:00:00Z",
    ):
        assert f"\n{line}\n" in f"\n{card}"
    assert "Licence" not in card and "Signed by" not in card
