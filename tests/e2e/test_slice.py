"""The vertical slice through a whole platform: chat, ask with citations, a durable run, audit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

import drw
from support.parts import wait_until
from support.platform import Platform

DEMO = Path(drw.__file__).parent / "demo" / "documents"
CHAT = "smollm2-135m-instruct"


def test_everything_is_healthy_and_says_what_is_not_there_yet(platform: Platform) -> None:
    found = platform.json("status")
    assert found["healthy"]
    states = {s["name"]: s["state"] for s in found["services"]}
    assert len(states) == 17
    assert {n for n, s in states.items() if s == "unimplemented"} == {"experiments", "error_handling"}


def test_no_log_has_the_first_key(platform: Platform) -> None:
    key = platform.credentials["api_key"]
    logs = {log.name: log.read_text(errors="replace") for log in (platform.data / "logs").glob("*.log")}
    assert "starting" in logs["supervisor.log"]
    assert [name for name, text in logs.items() if key in text or key.rpartition(".")[2] in text] == []


def test_a_second_platform_over_the_same_folder_is_refused(platform: Platform) -> None:
    again = platform.run("up", "--detach", "--port", "0", check=False)
    assert again.returncode != 0
    assert "already" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_taken_port_leaves_nothing_behind(platform: Platform, tmp_path: Path) -> None:
    port = platform.credentials["url"].rpartition(":")[2]
    again = platform.run("up", "--detach", "--port", port, "--data-dir", str(tmp_path), check=False)
    assert again.returncode != 0
    assert f"127.0.0.1:{port} is not free" in again.stderr
    assert platform.run("status", "--data-dir", str(tmp_path), check=False).returncode == 1


def test_models_chat_and_stream(client: openai.OpenAI) -> None:
    assert {m.id for m in client.models.list()} == {CHAT, "all-minilm-l6-v2"}
    asked: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
    whole = client.chat.completions.create(**asked, temperature=0, seed=7)
    assert whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 16
    chunks = list(
        client.chat.completions.create(
            **asked, temperature=0, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_embeddings(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="all-minilm-l6-v2", input=["gold futures", "a cat"])
    assert [len(d.embedding) for d in made.data] == [384, 384]


def test_keys_are_checked(platform: Platform) -> None:
    for wrong in ("", "sk-wrong", platform.credentials["api_key"][:-4] + "AAAA"):
        with pytest.raises(openai.AuthenticationError), platform.client(wrong or "-") as client:
            client.models.list()
    nobody = platform.run("keys", "create", "--scope", "models:read", "--desk", "equities", check=False)
    assert nobody.returncode == 3 and "has no desk 'equities'" in nobody.stderr
    platform.json("desks", "put", "equities", "--scope", "models:read", "--scope", "models:invoke")
    made = platform.json("keys", "create", "--scope", "models:read", "--desk", "equities")
    with platform.client(made["secret"]) as client:
        assert client.models.list().data
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "x"}])
        platform.run("keys", "revoke", made["key"]["id"])
        wait_until(lambda: _refused(client), "the refusal of a revoked key")


def test_a_revoked_key_takes_along_what_it_made(platform: Platform) -> None:
    made = platform.json("keys", "create", "--scope", "models:read", "--scope", "keys:write")
    with platform.client(made["secret"]) as client:
        wish = {"name": "child", "scopes": ["models:read"]}
        child = client.with_options(base_url=f"{platform.credentials['url']}/api/v1").post(
            "/keys", body=wish, cast_to=dict[str, Any]
        )
    with platform.client(child["secret"]) as client:
        assert client.models.list().data
        said = platform.run("keys", "revoke", made["key"]["id"]).stdout
        assert f"{child['key']['id']}, created with it, is revoked" in said
        wait_until(lambda: _refused(client), "the refusal of a key that a revoked one made")


def test_the_tree_and_the_signing_keys_by_command(platform: Platform) -> None:
    me = platform.json("whoami")
    assert (me["org"], me["desk"], me["identified_by"]) == ("local", "research", "KEY")
    everything = [word for scope in me["scopes"] for word in ("--scope", scope)]
    platform.json("orgs", "put", "local", *everything, "--wall", "m-and-a", "--title", "this machine")
    platform.json("desks", "put", "deals", "--scope", "models:read", "--wall", "m-and-a")
    made = platform.json("keys", "create", "--scope", "models:read", "--desk", "deals", "--wall", "m-and-a")
    key = made["key"]["id"]
    refused = platform.run("desks", "put", "deals", "--scope", "models:read", check=False)
    assert refused.returncode == 1 and key in refused.stderr
    successor = platform.json("keys", "rotate", key, "--overlap", "1h")["key"]
    assert successor["walls"] == ["m-and-a"] and platform.json("keys", "show", key)["successor"] == successor["id"]
    done = platform.json("desks", "put", "deals", "--scope", "models:read", "--revoke-wider")
    assert done["revoked_keys"] == [key, successor["id"]]
    platform.json("desks", "delete", "deals")
    assert {desk["name"] for desk in platform.json("desks", "list")} >= {"research"}
    new = platform.json("keys", "rotate-signing")
    assert {k["kid"]: k["state"] for k in platform.json("keys", "signing")}[new["kid"]] == "PUBLISHED"
    platform.json("keys", "retire-signing", new["kid"], "--yes")
    with platform.client() as client:
        assert client.models.list().data  # what the others signed is as good as before


def test_issuers_and_certificates_by_command(platform: Platform, tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(public)) | {"kid": "k1", "use": "sig"}]}))
    what = ["--issuer", "https://idp.example", "--org", "local", "--audience", "drw", "--jwks", str(keys)]
    made = platform.json("issuers", "put", "idp", *what, "--role", "trader=models:invoke,models:read")
    assert made["kids"] == ["k1"] and made["roles"][0]["scopes"] == ["models:invoke", "models:read"]
    assert [one["name"] for one in platform.json("issuers", "list")] == ["idp"]
    platform.json("issuers", "delete", "idp")
    san = ["--san", "spiffe://firm/pricing", "--desk", "research", "--scope", "models:invoke"]
    assert platform.json("certificates", "put", "pricing", *san)["org"] == "local"
    assert [one["san"] for one in platform.json("certificates", "list")] == ["spiffe://firm/pricing"]
    platform.json("certificates", "delete", "pricing")


def test_a_key_that_may_call_models_may_list_them(platform: Platform) -> None:
    made = platform.json("keys", "create", "--scope", "models:invoke")
    with platform.client(made["secret"]) as client:
        assert CHAT in {m.id for m in client.models.list()}


def test_limits_are_kept(platform: Platform) -> None:
    made = platform.json("keys", "create", "--scope", "models:read", "--rpm", "3")
    with platform.client(made["secret"]) as client:
        wait_until(lambda: _limited(client), "the limit")
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "gpt-none"}, openai.NotFoundError),
        ({"max_tokens": -1}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError),
    ],
)
def test_bad_requests_are_refused_clearly(client: openai.OpenAI, change: Any, error: Any) -> None:
    asked: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**(asked | change))
    assert caught.value.body["message"]


def test_a_body_that_is_too_large_or_broken(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body={"model": CHAT, "x": "y" * (34 << 20)}, cast_to=dict[str, Any])
    assert caught.value.status_code == 413
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", content=b"{broken", cast_to=dict[str, Any])


def test_ingest_ask_and_delete(platform: Platform, client: openai.OpenAI) -> None:
    first = platform.json("ingest", str(DEMO), "--collection", "demo")
    assert first["indexed"] >= 5
    assert first["failed"] == []
    again = platform.json("ingest", str(DEMO), "--collection", "demo")
    assert (again["indexed"], again["unchanged"]) == (0, first["indexed"])

    answer = platform.json("ask", "Who signs a waiver of a risk limit?", "--collection", "demo")
    assert answer["passages"]
    assert answer["answer"]["text"] or answer["answer"]["incomplete"]
    for citation in answer["answer"]["citations"]:
        assert citation["quote"] in citation["passage"]["text"]

    store = next(s for s in client.vector_stores.list() if s.name == "demo")
    found = client.vector_stores.search(store.id, query="risk limits").data
    assert found
    client.files.delete(found[0].file_id)
    assert found[0].file_id not in {d.file_id for d in client.vector_stores.search(store.id, query="risk limits").data}


def test_desks_do_not_see_each_other(platform: Platform) -> None:
    platform.json("ingest", str(DEMO), "--collection", "mine")
    platform.json("desks", "put", "other", "-s", "documents:read", "-s", "documents:write")
    made = platform.json("keys", "create", "--desk", "other", "-s", "documents:read", "-s", "documents:write")
    with platform.client(made["secret"]) as client:
        assert [s.name for s in client.vector_stores.list()] == []
        mine = platform.json("collections", "list")
        with pytest.raises(openai.NotFoundError):
            client.vector_stores.search(mine[0]["id"], query="anything")


def test_a_run_survives_the_death_of_its_process(platform: Platform, tmp_path: Path) -> None:
    for desk in ("Rates", "Power", "Metals"):  # short: the small model reads a page in seconds
        (tmp_path / f"{desk}.txt").write_text(
            f"{desk} desk, Monday. The spread rose by two ticks; no limit was broken."
        )
    run = platform.json("workflows", "run", "digest", "--input", f"files={tmp_path}")["id"]
    wait_until(lambda: _done(platform, run) >= 2, "two finished steps", 120)
    finished = {s["id"]: s["attempts"] for s in _run(platform, run)["steps"] if s["state"] == "SUCCEEDED"}
    os.kill(platform.pid("workflow"), signal.SIGKILL)
    wait_until(lambda: _run(platform, run).get("state") in {"SUCCEEDED", "FAILED"}, "the end of the run", 240)
    found = _run(platform, run)
    assert found["state"] == "SUCCEEDED", found
    assert {s["id"]: s["attempts"] for s in found["steps"] if s["id"] in finished} == finished
    events = platform.run("runs", "watch", run, "--json").stdout.splitlines()
    assert events


def test_model_calls_answer_while_rag_and_workflow_are_gone(platform: Platform, client: openai.OpenAI) -> None:
    stopped = [platform.pid(name) for name in ("rag", "workflow")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)  # stays gone, where a killed one would be started again
    try:
        asked: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
        assert client.chat.completions.create(**asked).choices
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_the_audit_trail_has_it_all_and_verifies(platform: Platform, tmp_path: Path) -> None:
    actions = {r["action"] for r in platform.json("audit", "list", "--limit", "2000")}
    assert {"model.chat", "model.embedding", "key.create", "key.revoke", "run.start", "collection.search"} <= actions
    kept = tmp_path / "checkpoint.txt"
    kept.write_text(platform.run("audit", "checkpoint").stdout)
    platform.run("keys", "list")
    assert platform.json("audit", "verify", "--earlier", str(kept))["ok"]
    offline = platform.json("audit", "verify", "--offline", str(platform.data / "services/log/tlog"))
    assert offline["ok"]


def _refused(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False


def _limited(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.RateLimitError:
        return True
    return False


def _run(platform, run: str) -> dict:
    done = platform.run("runs", "show", run, "--json", check=False)

    return json.loads(done.stdout) if done.returncode == 0 else {}


def _done(platform, run: str) -> int:
    return sum(s["state"] == "SUCCEEDED" for s in _run(platform, run).get("steps", ()))
