"""Vertex AI adapter with a workload account: token from a metadata server."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import openai
import orjson
import pytest

from models.cluster import StartCluster
from support.json_types import Json

BASE = "/v1/projects/p/locations/l/endpoints/openapi"


class DoubleMetadata(BaseHTTPRequestHandler):
    """Google's metadata server, as google-auth asks it."""

    tokens = 0

    def do_GET(self) -> None:
        if self.path.startswith("/computeMetadata/v1/instance/service-accounts/default/token"):
            type(self).tokens += 1
            body: Json = {"access_token": f"tok-{self.tokens}", "expires_in": 3600, "token_type": "Bearer"}
        elif "service-accounts/default" in self.path:
            body = {"email": "serving@p.iam.gserviceaccount.com", "scopes": []}
        else:
            body = "p"
        raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[DoubleMetadata]]:
    """A metadata server on the loopback, and an environment that leads to it."""
    server = HTTPServer(("127.0.0.1", 0), DoubleMetadata)
    serving = Thread(target=server.serve_forever, daemon=True)
    serving.start()
    address = f"127.0.0.1:{server.server_port}"
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("HOME", "/nonexistent")  # no account of a developer's
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    DoubleMetadata.tokens = 0
    yield DoubleMetadata
    server.shutdown()
    server.server_close()
    serving.join()


async def test_requests_share_one_account_token(start: StartCluster, metadata: type[DoubleMetadata]) -> None:
    async with start(double={"engine": "vertex", "upstream_model": "google/gemini-2.5-flash"}) as cluster:
        for _ in range(2):
            answer = await cluster.client.chat.completions.create(
                model="double", messages=[{"role": "user", "content": "plain"}]
            )
            assert answer.choices[0].finish_reason == "stop"
        assert [h["Authorization"] for h in cluster.double.headers] == ["Bearer tok-1"] * 2
        assert cluster.double.bodies[0]["model"] == "google/gemini-2.5-flash"
        assert metadata.tokens == 1
        with pytest.raises(openai.BadRequestError, match="chats only"):
            await cluster.client.completions.create(model="double", prompt="plain")
        assert [r["outcome"] for r in cluster.records()] == ["ok", "ok", "refused"]


async def test_a_missing_google_account_is_named_in_the_error(
    start: StartCluster, metadata: type[DoubleMetadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "do_GET", lambda self: self.send_error(404))
    async with start(double={"engine": "vertex"}) as cluster:
        with pytest.raises(openai.InternalServerError, match="no Google account for this workload"):
            await cluster.client.chat.completions.create(
                model="double", messages=[{"role": "user", "content": "plain"}]
            )
