"""Lost connections, missing responses and frozen processes become `Unavailable`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import aiohttp
import httpx
import psycopg
import pytest
import redis

from drw.api.audit.v1 import log_rpc
from drw.api.audit.v1.log_pb2 import GetCheckpointRequest, ListRecordsRequest
from drw.kernel.errors import DeadlineExceeded, Unavailable, Unimplemented
from drw.kernel.rpc import transport
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.http import rest
from drw.kernel.rpc.http import server as http_server
from drw.kernel.rpc.transport import Channels, Server
from support.parts import wait_until

CALLER = Principal("acme", "research", "key_1", frozenset({"audit:read"}))
SERVER = """
import asyncio, sys
from drw.api.audit.v1 import log_rpc
from drw.kernel.rpc.transport import Server

class Log(log_rpc.Log): ...

async def main():
    server = Server([Log()])
    await server.start(sys.argv[1])
    await asyncio.Event().wait()

asyncio.run(main())
"""


class DoubleLog(log_rpc.Log):
    """Raises an error in each call, or never responds."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def get_checkpoint(self, request: GetCheckpointRequest, /) -> NoReturn:
        while self._error is None:
            await asyncio.Event().wait()
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        psycopg.InterfaceError("the connection is lost"),
        psycopg.OperationalError("server closed the connection"),
        redis.ConnectionError("away"),
        redis.TimeoutError("late"),
        aiohttp.ServerDisconnectedError(),
    ],
)
async def test_a_lost_connection_is_a_503(folder: Path, error: Exception) -> None:
    app = http_server.app(rest.routes(DoubleLog(error)), "test")
    headers = {
        "x-drw-org": CALLER.org,
        "x-drw-desk": CALLER.desk,
        "x-drw-key": CALLER.key,
        "x-drw-scopes": "audit:read",
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://drw", headers=headers) as web:
        response = await web.get("/api/v1/audit/checkpoint")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "service_unavailable"


async def test_a_service_without_a_response_in_the_default_timeout_is_unavailable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "UNARY_SECONDS", 0.5)
    server, channels = Server([DoubleLog()]), Channels()
    address = await server.start(f"unix:{folder}/silent")
    client = channels.client(log_rpc.LogClient, address)
    with acting_for(CALLER):
        with pytest.raises(Unavailable, match="did not answer in time"):
            await client.get_checkpoint(GetCheckpointRequest())
        monkeypatch.setattr(transport, "UNARY_SECONDS", 30.0)
        with pytest.raises(DeadlineExceeded):  # the caller's own bound
            await client.get_checkpoint(GetCheckpointRequest(), timeout=0.2)
    await channels.close()
    await server.stop(0)


async def test_a_frozen_process_is_detected_by_keepalive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PING_MS", 500)
    path = folder / "frozen"
    with subprocess.Popen([sys.executable, "-c", SERVER, f"unix:{path}"]) as process:
        wait_until(path.exists, "the server")
        channels = Channels()
        client = channels.client(log_rpc.LogClient, f"unix:{path}")
        with acting_for(CALLER):
            with pytest.raises(Unimplemented):
                await client.list_records(ListRecordsRequest())
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(Unavailable, match="does not answer"):
                await client.list_records(ListRecordsRequest(), timeout=600)
        await channels.close()
        process.kill()
