"""Stored responses: chains, tenants, walls, limits, retention, and failures of the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import psycopg
import pytest

from models.cluster import ModelsCluster
from models.responses.test_responses import ASK, create, stored
from support.gateway.kills import kill

INSIDE = {"x-drw-walls": "deal-1"}
STRANGERS: list[dict[str, str]] = [
    {"x-drw-desk": "side", "x-drw-scopes": "models:invoke org:admin"},
    {"x-drw-org": "thief", "x-drw-scopes": "models:invoke platform:admin"},
]


def execute(cluster: ModelsCluster, statement: Any, *values: str) -> None:
    with psycopg.connect(cluster.database) as connection:
        connection.execute(statement, values)


def bytes_counted(cluster: ModelsCluster) -> tuple[int, int]:
    """Return the bytes that are counted for all desks, and the bytes of all rows."""
    with psycopg.connect(cluster.database) as connection:
        counted = connection.execute("select coalesce(sum(bytes), 0)::bigint from serving.stored_bytes").fetchone()
        actual = connection.execute(
            "select coalesce(sum(octet_length(input) + octet_length(body)), 0)::bigint from serving.response"
        ).fetchone()
    assert counted and actual
    return counted[0], actual[0]


async def test_a_response_continues_a_chain_on_another_replica(start: Callable[..., Any]) -> None:
    async with start() as cluster, start() as other:
        first = await create(cluster, input="one", instructions="Old instructions.")
        second = await create(other, input="two", previous_response_id=first.id)
        third = await create(cluster, input="three", previous_response_id=second.id, instructions="New.")
        assert (third.previous_response_id, second.previous_response_id) == (second.id, first.id)
        sent = [(message["role"], message["content"]) for message in cluster.double.bodies[-1]["messages"]]
        answers = ("assistant", "Rates rose.")
        assert sent == [("system", "New."), ("user", "one"), answers, ("user", "two"), answers, ("user", "three")]
        assert await texts_of(other, third.id) == ["three"]
        # A deleted response is gone, and so is every chain that contains it.
        await other.client.responses.delete(first.id)
        for again in (first.id, second.id, third.id):
            with pytest.raises(openai.BadRequestError, match=f"there is no response '{first.id}'") as gone:
                await create(cluster, previous_response_id=again)
            assert (gone.value.param, gone.value.code) == ("previous_response_id", "previous_response_not_found")
        assert (await cluster.client.responses.retrieve(third.id)).output_text == "Rates rose."
        assert len(cluster.double.bodies) == 2
        deleted = [record for record in cluster.records() if record["action"] == "response.delete"]
        assert [record["resource"] for record in deleted] == [f"response/{first.id}"]


async def test_a_function_is_called_and_its_result_continues_the_chain(cluster: ModelsCluster) -> None:
    first = await create(cluster)
    output = {"type": "function_call_output", "call_id": "c1", "output": "190"}
    call = {"type": "function_call", "call_id": "c1", "name": "price", "arguments": "{}"}
    await create(cluster, input=[call, output], previous_response_id=first.id)
    roles = [message["role"] for message in cluster.double.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "tool"]


@pytest.mark.parametrize("stranger", STRANGERS, ids=["another desk", "another org"])
async def test_another_tenant_sees_no_response(cluster: ModelsCluster, stranger: dict[str, str]) -> None:
    response = await create(cluster)
    await unreachable(cluster, response.id, stranger)
    assert (await cluster.client.responses.retrieve(response.id)).id == response.id


async def texts_of(cluster: ModelsCluster, id_: str, **query: Any) -> list[str]:
    """Return the texts of the input items of a response, over all pages."""
    items: list[Any] = [item async for item in cluster.client.responses.input_items.list(id_, **query)]
    return [item.content[0].text for item in items]


async def unreachable(cluster: ModelsCluster, id_: str, headers: dict[str, str]) -> None:
    responses, engine_calls = cluster.client.responses, len(cluster.double.bodies)
    for attempt in (
        lambda: responses.retrieve(id_, extra_headers=headers),
        lambda: responses.input_items.list(id_, extra_headers=headers),
        lambda: responses.delete(id_, extra_headers=headers),
        lambda: responses.cancel(id_, extra_headers=headers),
    ):
        with pytest.raises(openai.NotFoundError, match="there is no response"):
            await attempt()
    with pytest.raises(openai.BadRequestError, match="there is no response"):
        await create(cluster, previous_response_id=id_, extra_headers=headers)
    assert len(cluster.double.bodies) == engine_calls


async def test_walls_hide_responses(cluster: ModelsCluster) -> None:
    inside = await create(cluster, extra_headers=INSIDE)
    await unreachable(cluster, inside.id, {"x-drw-walls": ""})
    await unreachable(cluster, inside.id, {"x-drw-walls": "deal-2"})
    both = {"x-drw-walls": "deal-1 deal-2"}
    further = await create(cluster, previous_response_id=inside.id, extra_headers=both)
    await unreachable(cluster, further.id, INSIDE)
    outside = await create(cluster)
    assert (await create(cluster, previous_response_id=outside.id, extra_headers=INSIDE)).id


async def test_the_caller_needs_the_scope(cluster: ModelsCluster) -> None:
    response = await create(cluster)
    poor = {"x-drw-scopes": "models:read"}
    for verb, path in (
        ("POST", ""),
        ("GET", f"/{response.id}"),
        ("DELETE", f"/{response.id}"),
        ("GET", f"/{response.id}/input_items"),
        ("POST", f"/{response.id}/cancel"),
    ):
        answer = await cluster.http.request(verb, f"/v1/responses{path}", json=ASK, headers=poor)
        assert answer.status_code == 403, (verb, path)


async def test_input_items_are_paged(cluster: ModelsCluster) -> None:
    texts = ["a", "b", "c"]
    response = await create(cluster, input=[{"role": "user", "content": text} for text in texts])
    listed: Any = cluster.client.responses.input_items.list
    assert await texts_of(cluster, response.id, limit=2, order="asc") == texts
    assert await texts_of(cluster, response.id) == texts[::-1]
    for query, param in ({"limit": 0}, "limit"), ({"after": "msg_x"}, "after"), ({"include": ["a"]}, "include[]"):
        with pytest.raises(openai.BadRequestError) as refused:
            await listed(response.id, **query)
        assert refused.value.param == param
    with pytest.raises(openai.BadRequestError, match="only background responses can be cancelled"):
        await cluster.client.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await cluster.client.responses.retrieve(response.id, stream=True)
    assert refused.value.param == "stream"


async def test_store_false_leaves_nothing(cluster: ModelsCluster) -> None:
    response = await create(cluster, store=False)
    assert (response.store, response.output_text) == (False, "Rates rose.")
    assert stored(cluster) == []
    with pytest.raises(openai.NotFoundError):
        await cluster.client.responses.retrieve(response.id)


async def test_an_operator_can_turn_storage_off(start: Callable[..., Any]) -> None:
    async with start(responses={"store": False}) as cluster:
        assert (await create(cluster)).model_extra["store"] is False
        for parameters, param in (
            ({"store": True}, "store"),
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ):
            with pytest.raises(openai.BadRequestError, match="the operator does not store responses") as refused:
                await create(cluster, **parameters)
            assert refused.value.param == param
        assert stored(cluster) == []
    async with start(responses={"store_by_default": False}) as cluster:
        await create(cluster)
        assert stored(cluster) == []
        await create(cluster, store=True)
        assert len(stored(cluster)) == 1


async def test_chains_and_storage_are_bounded(start: Callable[..., Any]) -> None:
    settings = {"max_chain": 3, "max_bytes": 4096, "max_bytes_per_desk": 12_000, "max_bytes_per_org": 16_000}
    async with start(responses=settings) as cluster:
        response = await create(cluster)
        for _ in range(2):
            response = await create(cluster, previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError, match="the chain has 3 responses; at most 3"):
            await create(cluster, previous_response_id=response.id)
        with pytest.raises(openai.BadRequestError, match="bytes to store; at most 4096: send store: false"):
            await create(cluster, input="a" * 5000)
        assert (await create(cluster, input="a" * 5000, store=False)).output_text
        calls = len(cluster.double.bodies)
        with pytest.raises(openai.RateLimitError, match="the responses of the desk 'research' have") as full:
            for _ in range(20):
                await create(cluster, input="a" * 2000)
        assert (full.value.param, full.value.code) == ("store", "storage_full")
        stored_count = len(stored(cluster))
        assert len(cluster.double.bodies) == calls + stored_count - 3
        with pytest.raises(openai.RateLimitError, match="the responses of the org 'acme' have"):
            for _ in range(20):
                await create(cluster, input="a" * 2000, extra_headers={"x-drw-desk": "side"})
        assert (await create(cluster, extra_headers={"x-drw-org": "other"})).id
        counted, actual = bytes_counted(cluster)
        assert counted == actual > 0
        await cluster.client.responses.delete(response.id)
        counted, actual = bytes_counted(cluster)
        assert counted == actual


async def test_a_chain_of_many_bytes_is_refused(start: Callable[..., Any]) -> None:
    async with start(responses={"max_chain_bytes": 4096}) as cluster:
        response = await create(cluster, input="a" * 4000)
        with pytest.raises(openai.BadRequestError, match="bytes; at most 4096: start another"):
            await create(cluster, previous_response_id=response.id)


async def test_expired_responses_are_gone(start: Callable[..., Any]) -> None:
    async with start(responses={"retention_days": 2}) as cluster:
        old, new = await create(cluster), await create(cluster)
        execute(cluster, "update serving.response set created_at = now() - interval '49 hours' where id = %s", old.id)
        await unreachable(cluster, old.id, {})
        assert (await cluster.client.responses.retrieve(new.id)).id == new.id
    async with start(responses={"retention_days": 2}) as cluster:  # deletes at its start
        await cluster.until(lambda: len(stored(cluster)) == 1, "the expired response is deleted")
        counted, actual = bytes_counted(cluster)
        assert counted == actual


async def test_a_response_of_a_process_that_died_has_failed(cluster: ModelsCluster) -> None:
    response = await create(cluster)
    execute(cluster, "update serving.response set status = 'in_progress', created_at = now() - interval '2 hours'")
    read = await cluster.client.responses.retrieve(response.id)
    assert (read.status, read.error.code if read.error else None) == ("failed", "server_error")
    with pytest.raises(openai.BadRequestError, match="only a complete one can be continued"):
        await create(cluster, previous_response_id=response.id)


async def test_without_storage_the_model_is_not_called(cluster: ModelsCluster) -> None:
    execute(cluster, "alter table serving.response rename to elsewhere")
    try:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError):
                await create(cluster, stream=stream)
        assert cluster.double.bodies == []
        assert (await create(cluster, store=False)).output_text == "Rates rose."
    finally:
        execute(cluster, "alter table serving.elsewhere rename to response")


async def test_an_answer_that_cannot_be_stored_is_not_sent(cluster: ModelsCluster) -> None:
    """The storage fails while the model answers."""
    stream = await create(cluster, input="stall", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            execute(cluster, "alter table serving.response rename to elsewhere")
            cluster.double.go.set()
            break
    try:
        rest = [event.type async for event in stream]
    except openai.APIError:
        rest = []
    finally:
        execute(cluster, "alter table serving.elsewhere rename to response")
    assert "response.completed" not in rest


async def test_a_kill_fails_the_response(cluster: ModelsCluster) -> None:
    stream = await create(cluster, input="stall", stream=True)
    events = []
    async for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta":
            await cluster.kills.kill(kill("MODEL", "double"))
    assert events[-1].type == "response.failed"
    assert "kill switch" in events[-1].response.error.message
    assert [status for _, _, status in stored(cluster)] == ["cancelled"]


async def test_texts_that_json_of_the_database_does_not_have_are_stored(cluster: ModelsCluster) -> None:
    response = await create(cluster, input="a\x00b 🎉", metadata={"k": "\x00"})
    assert await texts_of(cluster, response.id) == ["a\x00b 🎉"]
