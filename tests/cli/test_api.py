"""How the command line handles responses, interrupted streams, pages and input files."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from drw.cli.api import Api
from drw.cli.rag.documents import files_of
from drw.cli.times import parse_duration
from drw.kernel.errors import DrwError, InternalError, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.rpc.http.server import HttpServer
from drw.local.credentials import Credentials, write
from drw.local.paths import PlatformPaths
from support.json_types import Json


def api_with(handler: Callable[[httpx.Request], httpx.Response]) -> Api:
    api = Api(Credentials("http://gateway", "secret"))
    api._client = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(handler))
    return api


def api_with_events(text: str) -> Api:
    return api_with(lambda request: httpx.Response(200, text=text, headers={"content-type": "text/event-stream"}))


async def test_local_platform_is_reached_by_its_unix_socket(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    for variable in ("DRW_URL", "DRW_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    paths = PlatformPaths.of(tmp_path)
    paths.run.mkdir()
    write(paths.credentials, "http://127.0.0.1:1", "secret")
    assert Credentials.read(paths).socket == ""

    async def me(request: Request) -> JSONResponse:
        return JSONResponse({"authorization": request.headers["authorization"]})

    server = HttpServer(Starlette(routes=[Route("/me", me)]))
    await server.start(f"unix:{paths.operators_socket}")
    api = Api.of(tmp_path)
    try:
        assert await asyncio.to_thread(api.get, "/me") == {"authorization": "Bearer secret"}
    finally:
        api._client.close()
        await server.stop(0)


def test_event_stream_ends_with_done() -> None:
    assert list(
        api_with_events('data: {"a": 1}\n\ndata: {"a": 2}\n\nevent: done\ndata: {}\n\n').events("GET", "/x")
    ) == [
        {"a": 1},
        {"a": 2},
    ]


def test_error_event_raises_its_error_class() -> None:
    body = {"error": {"type": "rate_limit_error", "message": "slow down"}}
    stream = api_with_events(f'data: {{"a": 1}}\n\nevent: error\ndata: {json.dumps(body)}\n\n').events("GET", "/x")
    assert next(stream) == {"a": 1}
    with pytest.raises(RateLimited, match="slow down"):
        next(stream)


def test_interrupted_stream_is_an_error() -> None:
    stream = api_with_events('data: {"a": 1}\n\n').events("GET", "/x")
    assert next(stream) == {"a": 1}
    with pytest.raises(Unavailable, match="broke off"):
        next(stream)


@pytest.mark.parametrize(
    ("status", "kind", "raised"),
    [
        (404, "not_found_error", NotFound),
        (400, "invalid_request_error", InvalidRequest),
        (503, "service_unavailable_error", Unavailable),
        (500, "something_new", InternalError),
    ],
)
def test_error_responses_keep_their_class_and_message(status: int, kind: str, raised: type[DrwError]) -> None:
    body = {"error": {"type": kind, "message": "no such thing"}}
    with pytest.raises(raised, match="no such thing"):
        api_with(lambda request: httpx.Response(status, json=body)).get("/x")


def test_response_without_json_is_an_error() -> None:
    with pytest.raises(InternalError, match="502"):
        api_with(lambda request: httpx.Response(502, text="<html>")).get("/x")


def test_unreachable_gateway_is_an_error() -> None:
    def refuse_connection(request: httpx.Request) -> NoReturn:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable, match="drw up"):
        api_with(refuse_connection).get("/x")


def test_pages_are_read_up_to_the_limit() -> None:
    def answer_page(request: httpx.Request) -> httpx.Response:
        token = int(request.url.params.get("page_token") or 0)
        return httpx.Response(200, json={"keys": [token * 2, token * 2 + 1], "next_page_token": str(token + 1)})

    items: list[Json] = api_with(answer_page).pages("/x", "keys", limit=5)
    assert items == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("30d", 2592000)])
def test_durations_are_parsed(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1w", "1.5h", "9999999999d"])
def test_invalid_durations_are_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest, match="30d, 12h, 15m"):
        parse_duration(text)


def test_symlinks_out_of_a_folder_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for directory in (folder / "sub", folder / ".hidden", outside):
        directory.mkdir(parents=True)
    for file in (folder / "a.txt", folder / ".hidden" / "key", outside / "secret.txt"):
        file.write_text("x")
    (folder / "inside.txt").symlink_to(folder / "a.txt")
    (folder / "absolute.txt").symlink_to(outside / "secret.txt")
    (folder / "sub" / "relative.txt").symlink_to("../../outside/secret.txt")
    (folder / "directory").symlink_to(outside, target_is_directory=True)
    (folder / "hidden.txt").symlink_to(folder / ".hidden" / "key")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    os.mkfifo(folder / "fifo.txt")
    assert [f.name for f in files_of(folder)] == ["a.txt", "inside.txt"]
    warnings = capsys.readouterr().err
    for name in ("absolute.txt", "relative.txt", "directory", "hidden.txt"):
        assert f"{name}' links to" in warnings
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert [f.name for f in files_of(tmp_path / "link")] == ["a.txt", "inside.txt"]


def test_folder_is_searched_for_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.md", ".hidden", ".git/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [f.name for f in files_of(tmp_path)] == ["c.md", "b.txt"]
    with pytest.raises(InvalidRequest, match="no file or folder"):
        files_of(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match="no files in it"):
        files_of(tmp_path / "empty")
