"""`drw responses` against stored responses of the running service."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from typer.testing import CliRunner

from drw.cli.api import Api
from drw.cli.models import responses
from drw.kernel.errors import NotFound
from drw.local.credentials import Credentials
from models.cluster import KEY, ModelsCluster
from models.responses.test_responses import create


class CommandLine:
    """Runs commands in a thread, as the caller of `KEY`."""

    def __init__(self, cluster: ModelsCluster, monkeypatch: pytest.MonkeyPatch, **headers: str) -> None:
        self._api = Api(Credentials("http://drw", "none"))
        self._transport = httpx.HTTPTransport(uds=cluster.socket)
        self._headers = {**KEY, **headers}
        monkeypatch.setattr(Api, "of", lambda data_dir: self._api)

    async def run(self, *args: str, stdin: str = "") -> str:
        """Return the output of a command; raises its error."""
        with httpx.Client(transport=self._transport, base_url="http://drw", headers=self._headers) as self._api._client:
            result = await asyncio.to_thread(CliRunner().invoke, responses.responses, args, input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output


async def test_stored_responses_are_shown_and_deleted(cluster: ModelsCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    drw = CommandLine(cluster, monkeypatch)
    response = await create(cluster, input="How are rates?")
    shown = json.loads(await drw.run("show", response.id))
    assert (shown["id"], shown["status"]) == (response.id, "completed")
    assert await drw.run("show", response.id, "--text") == "Rates rose.\n"
    items = json.loads(await drw.run("input-items", response.id, "--json"))
    assert [item["content"][0]["text"] for item in items] == ["How are rates?"]
    table = await drw.run("input-items", response.id)
    assert "message" in table and "user" in table and "How are rates?" in table
    assert "Aborted" in await drw.run("delete", response.id, stdin="n\n")
    assert json.loads(await drw.run("delete", response.id, "-y", "--json"))["deleted"] is True
    for command in ("show", "input-items"):
        with pytest.raises(NotFound, match="there is no response"):
            await drw.run(command, response.id)
    with pytest.raises(NotFound):
        await drw.run("delete", response.id, "--yes")


async def test_input_items_of_several_pages_are_in_order(
    cluster: ModelsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    drw = CommandLine(cluster, monkeypatch)
    monkeypatch.setattr(responses, "PAGE", 2)
    texts = [f"text {number}" for number in range(5)]
    response = await create(cluster, input=[{"role": "user", "content": text} for text in texts])
    for limit, expected in ((100, texts), (3, texts[:3])):
        items = json.loads(await drw.run("input-items", response.id, "--limit", str(limit), "--json"))
        assert [item["content"][0]["text"] for item in items] == expected


async def test_responses_of_another_desk_are_not_found(cluster: ModelsCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    response = await create(cluster)
    stranger = CommandLine(cluster, monkeypatch, **{"x-drw-desk": "side"})
    for command in (["show"], ["input-items"], ["delete", "-y"]):
        with pytest.raises(NotFound):
            await stranger.run(command[0], response.id, *command[1:])
    assert (await cluster.client.responses.retrieve(response.id)).id == response.id
