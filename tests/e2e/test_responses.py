"""File search of the Responses API on the whole platform: real documents, vectors and model, and `drw responses`."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.responses import ResponseFileSearchToolCall, ResponseOutputMessage, ResponseOutputText

from e2e.platform import Platform
from e2e.test_platform import CHAT, DEMO
from support.json_types import JsonObject

QUESTION = "Who signs a waiver of a risk limit?"
ANSWER = "The source names them [1]."
FORMAT: JsonObject = {
    "type": "json_schema",
    "name": "answer",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": [ANSWER]}},
        "required": ["answer"],
        "additionalProperties": False,
    },
}
"""The bundled model is too small to cite by itself, so the schema leaves it only one answer."""


def test_an_answer_cites_the_ingested_document(platform: Platform, client: openai.OpenAI) -> None:
    platform.json("ingest", str(DEMO), "--collection", "cited")
    store = next(store for store in client.vector_stores.list() if store.name == "cited")
    tool: JsonObject = {"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 2}
    request: JsonObject = {"model": CHAT, "input": QUESTION, "tools": [tool], "text": {"format": FORMAT}}
    response = client.responses.create(**request, include=["file_search_call.results"])
    search, message = response.output
    assert isinstance(search, ResponseFileSearchToolCall) and search.results
    assert isinstance(message, ResponseOutputMessage) and isinstance(message.content[0], ResponseOutputText)
    assert json.loads(response.output_text) == {"answer": ANSWER}
    (citation,) = message.content[0].annotations
    first = search.results[0]
    assert citation.type == "file_citation"
    assert (citation.file_id, citation.filename) == (first.file_id, first.filename)
    assert citation.index == response.output_text.index("[1]")
    assert first.text and "waiver" in first.text.lower()
    found = client.vector_stores.search(store.id, query=QUESTION, max_num_results=2).data
    assert first.file_id in {result.file_id for result in found}
    assert client.files.retrieve(first.file_id or "").filename == first.filename

    assert json.loads(platform.run("responses", "show", response.id).stdout)["id"] == response.id
    assert ANSWER in platform.run("responses", "show", response.id, "--text").stdout
    (item,) = platform.json("responses", "input-items", response.id)
    assert item["content"][0]["text"] == QUESTION

    scopes = ("models:invoke", "documents:read", "documents:write")
    granted = [part for scope in scopes for part in ("--scope", scope)]
    platform.json("desks", "put", "uncited", *granted)
    created = platform.json("keys", "create", "--desk", "uncited", *granted)
    with platform.client(created["secret"]) as stranger:
        with pytest.raises(openai.NotFoundError, match=store.id):
            stranger.responses.create(**request)
        with pytest.raises(openai.NotFoundError, match=response.id):
            stranger.responses.retrieve(response.id)

    platform.run("responses", "delete", response.id, "--yes")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
