"""A whole platform end to end: chat, ask with citations, a durable run and audit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import grpc
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

import drw
from drw.local.paths import PlatformPaths
from e2e.platform import Platform
from support.json_types import JsonObject
from support.parts import wait_until

DEMO = Path(drw.__file__).parent / "demo" / "documents"
CHAT = "smollm2-135m-instruct"


def test_status_is_healthy_and_every_service_is_implemented(platform: Platform) -> None:
    result = platform.json("status")
    assert result["healthy"]
    states = {s["name"]: s["state"] for s in result["services"]}
    assert len(states) == 18
    assert {n for n, s in states.items() if s == "unimplemented"} == set()


def test_a_caller_without_a_certificate_reaches_no_service(platform: Platform) -> None:
    address = PlatformPaths(platform.data).run / "models.grpc"
    with grpc.insecure_channel(f"unix:{address}") as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as refused:
            check(b"", timeout=10)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_first_key_is_in_no_log(platform: Platform) -> None:
    key = platform.credentials["api_key"]
    logs = {log.name: log.read_text(errors="replace") for log in (platform.data / "logs").glob("*.log")}
    assert "starting" in logs["supervisor.log"]
    assert [name for name, text in logs.items() if key in text or key.rpartition(".")[2] in text] == []


def test_second_platform_in_the_same_folder_is_rejected(platform: Platform) -> None:
    second = platform.run("up", "--detach", "--port", "0", check=False)
    assert second.returncode != 0
    assert "already" in second.stderr
    assert "Traceback" not in second.stderr


def test_failed_start_on_a_used_port_leaves_nothing_running(platform: Platform, tmp_path: Path) -> None:
    port = platform.credentials["url"].rpartition(":")[2]
    second = platform.run("up", "--detach", "--port", port, "--data-dir", str(tmp_path), check=False)
    assert second.returncode != 0
    assert f"127.0.0.1:{port} is not free" in second.stderr
    assert platform.run("status", "--data-dir", str(tmp_path), check=False).returncode == 1


def test_a_streamed_chat_equals_the_complete_answer(client: openai.OpenAI) -> None:
    assert {m.id for m in client.models.list()} == {CHAT, "all-minilm-l6-v2"}
    chat_request: JsonObject = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 16,
    }
    response = client.chat.completions.create(**chat_request, temperature=0, seed=7)
    assert response.choices[0].message.content
    assert response.usage
    assert response.usage.completion_tokens <= 16
    chunks = list(
        client.chat.completions.create(
            **chat_request, temperature=0, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == response.choices[0].message.content
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == response.usage.total_tokens


def test_each_input_has_an_embedding(client: openai.OpenAI) -> None:
    created = client.embeddings.create(model="all-minilm-l6-v2", input=["gold futures", "a cat"])
    assert [len(d.embedding) for d in created.data] == [384, 384]


def test_keys_are_authenticated_and_authorized(platform: Platform) -> None:
    for invalid_key in ("", "sk-wrong", platform.credentials["api_key"][:-4] + "AAAA"):
        with pytest.raises(openai.AuthenticationError), platform.client(invalid_key or "-") as client:
            client.models.list()
    missing_desk = platform.run("keys", "create", "--scope", "models:read", "--desk", "equities", check=False)
    assert missing_desk.returncode == 3 and "has no desk 'equities'" in missing_desk.stderr
    platform.json("desks", "put", "equities", "--scope", "models:read", "--scope", "models:invoke")
    created = platform.json("keys", "create", "--scope", "models:read", "--desk", "equities")
    with platform.client(created["secret"]) as client:
        assert client.models.list().data
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "x"}])
        platform.run("keys", "revoke", created["key"]["id"])
        wait_until(lambda: is_rejected(client), "the refusal of a revoked key")


def test_revocation_includes_keys_created_with_the_key(platform: Platform) -> None:
    created = platform.json("keys", "create", "--scope", "models:read", "--scope", "keys:write")
    with platform.client(created["secret"]) as client:
        body = {"name": "child", "scopes": ["models:read"]}
        child_key = client.with_options(base_url=f"{platform.credentials['url']}/api/v1").post(
            "/keys", body=body, cast_to=JsonObject
        )
    with platform.client(child_key["secret"]) as client:
        assert client.models.list().data
        output = platform.run("keys", "revoke", created["key"]["id"]).stdout
        assert f"{child_key['key']['id']}, created with it, is revoked" in output
        wait_until(lambda: is_rejected(client), "the refusal of a key that a revoked one made")


def test_orgs_desks_and_signing_keys_by_command(platform: Platform) -> None:
    me = platform.json("whoami")
    assert (me["org"], me["desk"], me["identified_by"]) == ("local", "research", "KEY")
    everything = [word for scope in me["scopes"] for word in ("--scope", scope)]
    platform.json("orgs", "put", "local", *everything, "--wall", "m-and-a", "--title", "this machine")
    platform.json("desks", "put", "deals", "--scope", "models:read", "--wall", "m-and-a")
    created = platform.json("keys", "create", "--scope", "models:read", "--desk", "deals", "--wall", "m-and-a")
    key = created["key"]["id"]
    denied = platform.run("desks", "put", "deals", "--scope", "models:read", check=False)
    assert denied.returncode == 1 and key in denied.stderr
    successor = platform.json("keys", "rotate", key, "--overlap", "1h")["key"]
    assert successor["walls"] == ["m-and-a"] and platform.json("keys", "show", key)["successor"] == successor["id"]
    result = platform.json("desks", "put", "deals", "--scope", "models:read", "--revoke-wider")
    assert result["revoked_keys"] == [key, successor["id"]]
    platform.json("desks", "delete", "deals")
    assert {desk["name"] for desk in platform.json("desks", "list")} >= {"research"}
    new = platform.json("keys", "rotate-signing")
    assert {k["kid"]: k["state"] for k in platform.json("keys", "signing")}[new["kid"]] == "PUBLISHED"
    platform.json("keys", "retire-signing", new["kid"], "--yes")
    with platform.client() as client:
        assert client.models.list().data  # keys signed by the other signing keys stay valid


def test_issuers_and_certificates_by_command(platform: Platform, tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(public)) | {"kid": "k1", "use": "sig"}]}))
    issuer_options = ["--issuer", "https://idp.example", "--org", "local", "--audience", "drw", "--jwks", str(keys)]
    created = platform.json("issuers", "put", "idp", *issuer_options, "--role", "trader=models:invoke,models:read")
    assert created["kids"] == ["k1"] and created["roles"][0]["scopes"] == ["models:invoke", "models:read"]
    assert [record["name"] for record in platform.json("issuers", "list")] == ["idp"]
    platform.json("issuers", "delete", "idp")
    san = ["--san", "spiffe://firm/pricing", "--desk", "research", "--scope", "models:invoke"]
    assert platform.json("certificates", "put", "pricing", *san)["org"] == "local"
    assert [record["san"] for record in platform.json("certificates", "list")] == ["spiffe://firm/pricing"]
    platform.json("certificates", "delete", "pricing")


def test_models_invoke_scope_allows_listing_models(platform: Platform) -> None:
    created = platform.json("keys", "create", "--scope", "models:invoke")
    with platform.client(created["secret"]) as client:
        assert CHAT in {m.id for m in client.models.list()}


def test_request_limit_is_enforced(platform: Platform) -> None:
    created = platform.json("keys", "create", "--scope", "models:read", "--rpm", "3")
    with platform.client(created["secret"]) as client:
        wait_until(lambda: is_limited(client), "the limit")
        with pytest.raises(openai.RateLimitError) as raised:
            client.models.list()
    assert int(raised.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "gpt-none"}, openai.NotFoundError),
        ({"max_tokens": -1}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError),
    ],
)
def test_invalid_requests_are_rejected_with_a_message(
    client: openai.OpenAI, change: JsonObject, error: type[openai.APIStatusError]
) -> None:
    chat_request: JsonObject = {"model": CHAT, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    with pytest.raises(error) as raised:
        client.chat.completions.create(**(chat_request | change))
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["message"]


def test_too_large_or_malformed_body_is_rejected(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.post("/chat/completions", body={"model": CHAT, "x": "y" * (34 << 20)}, cast_to=JsonObject)
    assert raised.value.status_code == 413
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", content=b"{broken", cast_to=JsonObject)


def test_documents_are_ingested_searched_and_deleted(platform: Platform, client: openai.OpenAI) -> None:
    first = platform.json("ingest", str(DEMO), "--collection", "demo")
    assert first["indexed"] >= 5
    assert first["failed"] == []
    second = platform.json("ingest", str(DEMO), "--collection", "demo")
    assert (second["indexed"], second["unchanged"]) == (0, first["indexed"])

    answer = platform.json("ask", "Who signs a waiver of a risk limit?", "--collection", "demo")
    assert answer["passages"]
    assert answer["answer"]["text"] or answer["answer"]["incomplete"]
    for citation in answer["answer"]["citations"]:
        assert citation["quote"] in citation["passage"]["text"]

    store = next(s for s in client.vector_stores.list() if s.name == "demo")
    result = client.vector_stores.search(store.id, query="risk limits").data
    assert result
    client.files.delete(result[0].file_id)
    assert result[0].file_id not in {d.file_id for d in client.vector_stores.search(store.id, query="risk limits").data}


def test_desks_are_isolated(platform: Platform) -> None:
    platform.json("ingest", str(DEMO), "--collection", "mine")
    platform.json("desks", "put", "other", "-s", "documents:read", "-s", "documents:write")
    created = platform.json("keys", "create", "--desk", "other", "-s", "documents:read", "-s", "documents:write")
    with platform.client(created["secret"]) as client:
        assert [s.name for s in client.vector_stores.list()] == []
        mine = platform.json("collections", "list")
        with pytest.raises(openai.NotFoundError):
            client.vector_stores.search(mine[0]["id"], query="anything")


def test_run_survives_a_killed_process(platform: Platform, tmp_path: Path) -> None:
    for desk in ("Rates", "Power", "Metals"):  # short texts, since the small model needs seconds for a page
        (tmp_path / f"{desk}.txt").write_text(
            f"{desk} desk, Monday. The spread rose by two ticks; no limit was broken."
        )
    run = platform.json("workflows", "run", "digest", "--input", f"files={tmp_path}")["id"]
    wait_until(lambda: succeeded_steps(platform, run) >= 2, "two finished steps", 120)
    finished = {s["id"]: s["attempts"] for s in show_run(platform, run)["steps"] if s["state"] == "SUCCEEDED"}
    os.kill(platform.pid("workflow"), signal.SIGKILL)
    wait_until(lambda: show_run(platform, run).get("state") in {"SUCCEEDED", "FAILED"}, "the end of the run", 240)
    result = show_run(platform, run)
    assert result["state"] == "SUCCEEDED", result
    assert {s["id"]: s["attempts"] for s in result["steps"] if s["id"] in finished} == finished
    events = platform.run("runs", "watch", run, "--json").stdout.splitlines()
    assert events


def test_a_failed_run_is_redriven_from_the_command_line(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "power.txt").write_text("Power desk, Monday. No limit was broken.")
    inputs = ("--input", f"files={tmp_path}", "--input", "model=no-such-model")
    platform.run("workflows", "run", "digest", *inputs, "--watch", check=False)
    (run,) = platform.json("runs", "list", "--state", "failed", "--input", "no-such-model")
    wait_until(lambda: bool(platform.json("dead-letters", "list")), "the dead letter")
    (group,) = platform.json("dead-letters", "groups")
    (letter,) = platform.json("dead-letters", "list", "--group", group["group"], "--class", "permanent")
    assert letter["run"] == run["id"]
    assert "no-such-model" in platform.run("dead-letters", "show", letter["id"]).stdout
    chosen = ("redrive", "--group", group["group"])
    assert platform.run("dead-letters", *chosen, "--dry-run").stdout.startswith("1 dead letters would be redriven")
    refused = platform.run("dead-letters", *chosen, "--wait", check=False)
    assert (refused.returncode, "refused" in refused.stdout) == (1, True)
    wait_until(lambda: bool(platform.json("dead-letters", "list")), "the dead letter of the probe")
    ended = platform.json("dead-letters", *chosen, "--input", "model=", "--from", "summarise", "--wait")
    assert (ended["state"], ended["groups"][0]["state"]) == ("ENDED", "PASSED"), ended
    assert "1 started" in platform.run("dead-letters", "progress", ended["id"]).stdout
    assert platform.json("dead-letters", "list") == []
    discarded = platform.run("dead-letters", "discard", "--group", group["group"], "--reason", "solved")
    assert discarded.stdout == "0 dead letters discarded\n"


def test_model_calls_work_without_rag_and_workflow(platform: Platform, client: openai.OpenAI) -> None:
    process_ids = [platform.pid(name) for name in ("rag", "workflow")]
    for pid in process_ids:
        os.kill(pid, signal.SIGSTOP)  # a stopped process stays away; a killed one would be restarted
    try:
        chat_request: JsonObject = {"model": CHAT, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
        assert client.chat.completions.create(**chat_request).choices
    finally:
        for pid in process_ids:
            os.kill(pid, signal.SIGCONT)


def test_audit_trail_is_complete_and_verifies(platform: Platform, tmp_path: Path) -> None:
    actions = {r["action"] for r in platform.json("audit", "list", "--limit", "2000")}
    assert {"model.chat", "model.embedding", "key.create", "key.revoke", "run.start", "collection.search"} <= actions
    checkpoint = tmp_path / "checkpoint.txt"
    checkpoint.write_text(platform.run("audit", "checkpoint").stdout)
    platform.run("keys", "list")
    assert platform.json("audit", "verify", "--earlier", str(checkpoint))["ok"]
    offline = platform.json("audit", "verify", "--offline", str(platform.data / "services/log/tlog"))
    assert offline["ok"]


def is_rejected(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False


def is_limited(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.RateLimitError:
        return True
    return False


def show_run(platform: Platform, run: str) -> JsonObject:
    result = platform.run("runs", "show", run, "--json", check=False)

    return json.loads(result.stdout) if result.returncode == 0 else {}


def succeeded_steps(platform: Platform, run: str) -> int:
    return sum(s["state"] == "SUCCEEDED" for s in show_run(platform, run).get("steps", ()))
