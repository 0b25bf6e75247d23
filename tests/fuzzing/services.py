"""Every service in one process of real parts, served over HTTP, with a desk that has one of everything."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import jsonschema
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from drw.catalog import BY_NAME
from drw.kernel.rpc.context import SCOPES
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.models.serving.openai.requests import prompts_of
from support.approvals import create_approval
from support.dead_letters import create_dead_letter
from support.gateway.model_versions import create_version
from support.hosting import with_secret
from support.json_types import Json, JsonObject
from support.parts import new_database, session_databases, wait_until

KEY = {
    "x-drw-key": "key_fuzz",
    "x-drw-org": "acme",
    "x-drw-desk": "research",
    "x-drw-scopes": " ".join(SCOPES),
    "x-drw-walls": "m-and-a",
}
MODEL = "double"
EXPERIMENT = {
    "name": "price",
    "unit": "user",
    "arms": [{"name": "control", "weight": 1}, {"name": "candidate", "weight": 1}],
    "metrics": [{"name": "cost", "kind": "MEAN", "direction": "LOWER_IS_BETTER"}],
}
ROLLOUT = {"name": "swap", "alias": "fast", "model": MODEL, "unit": "user"}
SECONDS = 30
"""Within which every request must be answered."""

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs/reference/openapi.json").read_text())


@dataclass
class Served:
    """Where the services answer, and the ids of what the desk has, by the name of the parameter that takes them.

    Where a name says too little, as `id` does, it is the path that the parameter stands in.
    """

    url: str
    known: dict[str, str]

    def id_of(self, name: str, path: str) -> str:
        """Return the id of something that exists; empty where nothing is known that this could name."""
        here = (id_ for start, id_ in self.known.items() if path.startswith(start) and name in start)
        return next(here, "") or self.known.get(name, "")

    def path(self, template: str, **others: str) -> str:
        """Return a path that names what exists, but for these parameters."""
        names = re.findall(r"{(\w+)}", template)
        return template.format(**{name: others.get(name) or self.id_of(name, template) or "x" for name in names})


def check(path: str, status: int, body: bytes, what: str) -> None:
    """Fail where an answer says that a service broke, or where an error is not in the documented shape."""
    assert status < 500, f"{what}: {status} {body[:500]!r}"
    if status >= 400:
        error = "AnthropicError" if path.startswith("/v1/messages") else "Error"
        jsonschema.validate(orjson.loads(body), DOCUMENT["components"]["schemas"][error])


async def double_engine(request: Request) -> Response:
    """Answer every chat, and every prompt of a completion, with one word, which is one token."""
    if request.url.path.endswith("tokenize"):
        return JSONResponse({"tokens": [1], "token_strs": ["yes"], "prompt": "yes"})
    chat = request.url.path.endswith("/chat/completions")
    asked = await request.json()

    async def events() -> AsyncIterator[bytes]:
        said = {"delta": {"content": "yes"}} if chat else {"text": "yes"}
        several = (asked.get("n") or 1) * len(prompts_of(asked.get("prompt")))
        choices = [{"index": i, **said, "finish_reason": "stop"} for i in range(several)]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        for event in ({"choices": choices}, {"choices": [], "usage": usage}):
            yield b"data: " + orjson.dumps({"id": "up", "object": "x", "created": 1, "model": MODEL} | event) + b"\n\n"
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@asynccontextmanager
async def serving(profile: Profile, folder: Path) -> AsyncIterator[str]:
    """Run the services and the engine; gives the address."""
    engine = HttpServer(Starlette(routes=[Route("/{path:path}", double_engine, methods=["POST"])]))
    await engine.start(f"unix:{folder}/fz.d")
    models = {MODEL: {"engine": "openai", "base_url": f"unix:{folder}/fz.d"}}
    services = {
        "discovery": {"models": models, "default_model": MODEL},
        "embedding": {"encoder": "hashing"},
        "events": {"max_tail_seconds": 0.05},
        "state": {"lookup_timeout_seconds": 0.05, "poll_timeout_seconds": 0.05},
    }
    place = ServiceAddress(services=tuple(BY_NAME), grpc=f"unix:{folder}/fz.g", http=f"unix:{folder}/fz.h")
    host = Host(
        profile.model_copy(update={"services": profile.services | services, "processes": {"all": place}}), "all"
    )
    try:
        yield (await host.start(http_address="127.0.0.1:0"))[1]
    finally:
        await host.stop(grace=0)
        await engine.stop(0)


@contextmanager
def serving_in_thread(postgres: Path, valkey: str, folder: Path, data: Path) -> Iterator[Served]:
    """Run the services in a thread of their own: what sends the requests waits for each answer."""
    own = f"{valkey}?db={next(session_databases)}"
    profile = with_secret(Profile(name="test", data=data, postgres=new_database(postgres), valkey=own))
    addresses: queue.Queue[str] = queue.Queue()
    over = threading.Event()

    async def run() -> None:
        async with serving(profile, folder) as address:
            addresses.put(address)
            await asyncio.to_thread(over.wait)

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, run())
        try:
            wait_until(lambda: running.done() or not addresses.empty(), "the services", 60)
            if running.done():
                running.result()  # which raises what went wrong
            url = f"http://{addresses.get()}"
            yield Served(url, _one_of_everything(url))
        finally:
            over.set()
            running.result(60)


def _one_of_everything(url: str) -> dict[str, str]:
    with httpx.Client(base_url=url, headers=KEY, timeout=30) as http:

        def made(path: str, verb: str = "POST", **more: Json) -> JsonObject:
            answer = http.request(verb, path, **more)
            assert answer.status_code == 200, answer.text
            return answer.json()

        for path in ("/api/v1/orgs/acme", "/api/v1/desks/research", "/api/v1/desks/equities"):
            made(path, "PUT", json={"scopes": list(SCOPES), "walls": ["m-and-a"]})

        file = made("/v1/files", files={"file": ("rates.txt", b"Rates rose.")}, data={"purpose": "assistants"})["id"]
        store = made("/v1/vector_stores", json={"name": "filings"})["id"]
        batch = made(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": [file]})["id"]
        key = made("/api/v1/keys", json={"name": "test", "scopes": ["models:read"]})["key"]["id"]
        scopes = ["workflows:run", "documents:read", "documents:write", "models:invoke"]
        scopes += ["events:read", "workflows:read"]
        of_schedules = {"name": "schedules", "scopes": scopes, "walls": ["m-and-a"]}
        workflow_key = made("/api/v1/keys", json=of_schedules)["key"]["id"]
        line: JsonObject = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
        line["body"] = {"model": MODEL, "prompt": "Rates"}
        form: JsonObject = {"files": {"file": ("in.jsonl", json.dumps(line))}, "data": {"purpose": "batch"}}
        batch_file = made("/v1/files", **form)["id"]
        requests = {"input_file_id": batch_file, "endpoint": "/v1/completions", "completion_window": "24h"}
        of_requests = made("/v1/batches", json=requests, headers={"x-drw-key": key})["id"]
        run = made("/api/v1/runs", json={"template": "digest", "inputs": {"files": [file]}})["id"]
        spec = {"template": "digest", "cron": "0 0 1 1 *", "inputs": {"files": [file]}}
        of_year = {"name": "yearly", "spec": spec}
        schedule = made("/api/v1/schedules", json=of_year, headers={"x-drw-key": workflow_key})["id"]
        on_end = {"event": "run.ended", "filter": "false", "template": "digest", "inputs": {"files": [file]}}
        of_runs = {"name": "ended", "spec": on_end}
        trigger = made("/api/v1/triggers", json=of_runs, headers={"x-drw-key": workflow_key})["id"]
        source = "name: own\ndescription: x\nnodes: [{id: a, uses: wait, with: {seconds: 1}}]\noutput: 1\n"
        made("/api/v1/templates/own", "PUT", json={"source": source})
        delegate = {"san": "spiffe://test/delegate", "scopes": ["workflows:approve"], "org": "acme", "desk": "research"}
        made("/api/v1/certificates/delegate", "PUT", json=delegate)
        waiting = create_approval(http, KEY, "oidc:corp:ann", "cert:delegate", "sign", "Sign")
        experiment = made("/api/v1/experiments", json=EXPERIMENT)["name"]
        made(f"/api/v1/experiments/{experiment}:start")
        made("/api/v1/aliases/fast", "PUT", json={"targets": [{"model": MODEL, "weight": 1}]})
        rollout = made("/api/v1/rollouts", json=ROLLOUT)["name"]
        model_version = create_version(http, KEY, "fraud", "prod", "for tests")
        kill = made("/api/v1/kills", json={"subject": "KEY", "name": key, "reason": "a drill"})["id"]
        shown = f"/v1/batches/{of_requests}"
        wait_until(lambda: http.get(shown).json()["status"] in {"completed", "failed"}, "the batch of requests")
        response = made("/v1/responses", json={"model": MODEL, "input": "Rates?"})["id"]
        wait_until(lambda: http.get(f"/api/v1/runs/{run}").json()["state"] in {"SUCCEEDED", "FAILED"}, "the run")
        letter = create_dead_letter(http, KEY)
    return {
        "model": MODEL,
        "file_id": file,
        "vector_store_id": store,
        "collection": store,
        "batch_id": batch,
        "batch_file": batch_file,
        "/v1/batches/{batch_id}": of_requests,
        "run": run,
        **letter,
        **waiting,
        "schedule": schedule,
        "trigger": trigger,
        "response_id": response,
        "template": "digest",
        "index": "0",
        "step": "digest",
        "signal": "fill",
        "/api/v1/runs/{run}/payloads/{sha256}": "0" * 64,
        "/api/v1/templates/{name}": "own",
        "/api/v1/templates/{name}/versions": "own",
        "/api/v1/desks/{name}": "research",
        "/api/v1/keys/{id}": key,
        "/api/v1/kills/{id}": kill,
        "/api/v1/experiments/{name}": experiment,
        "/api/v1/rollouts/{name}": rollout,
        "/api/v1/models/{id}": MODEL,
        "/api/v1/aliases/{name}": "prod",
        "/api/v1/model-versions/{id}": model_version["version"],
        "/api/v1/promotions/{id}": model_version["promotion"],
    }
