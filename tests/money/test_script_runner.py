"""Scripts in Valkey: together where they wait, each with its own answer or error, and all within a bounded time."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError, ResponseError

from drw.billing.counters.script_runner import ScriptRunner

ECHO = "return ARGV[1]"


@pytest.fixture
async def runner(valkey: str) -> AsyncIterator[ScriptRunner]:
    made = ScriptRunner(valkey, 5)
    yield made
    await made.close()


async def test_scripts_that_wait_at_one_moment_go_in_one_exchange(
    runner: ScriptRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runner.run(ECHO, [0])
    exchanges, send = [], runner._connection.send_packed_command

    async def counted(commands, **more):
        exchanges.append(len(commands))
        await send(commands, **more)

    monkeypatch.setattr(runner._connection, "send_packed_command", counted)
    assert await asyncio.gather(*(runner.run(ECHO, [n]) for n in range(20))) == [b"%d" % n for n in range(20)]
    assert exchanges == [20]


async def test_what_valkey_refuses_fails_alone(runner: ScriptRunner) -> None:
    found = await asyncio.gather(
        runner.run(ECHO, ["before"]),
        runner.run("return redis.call('NOTHING')", []),
        runner.run(ECHO, ["after"]),
        return_exceptions=True,
    )
    assert list(found[::2]) == [b"before", b"after"]
    assert isinstance(found[1], ResponseError)


async def test_a_restart_of_valkey_is_not_noticed(runner: ScriptRunner, valkey: str) -> None:
    await runner.run(ECHO, [1])
    async with redis.asyncio.Redis.from_url(valkey) as other:  # which forgets scripts and ends connections
        await other.script_flush()
        await other.client_kill_filter(_type="normal", skipme=True)
    assert await asyncio.gather(*(runner.run(ECHO, [n]) for n in (2, 3))) == [b"2", b"3"]


async def test_a_frozen_valkey_fails_all_that_wait(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(tmp_path / "frozen"))
        frozen.listen()  # the kernel takes connections, and nobody reads
        runner = ScriptRunner(f"unix://{tmp_path}/frozen", 0.05)
        first = asyncio.create_task(runner.run(ECHO, [1]))
        await asyncio.sleep(0)
        found = await asyncio.gather(first, *(runner.run(ECHO, [n]) for n in range(5)), return_exceptions=True)
        await runner.close()
    assert [type(error) for error in found] == [TimeoutError] * 6


async def test_an_answer_that_comes_too_late_is_given_to_nobody_else(valkey: str) -> None:
    runner = ScriptRunner(valkey, 0.05)
    async with redis.asyncio.Redis.from_url(valkey) as other:
        assert await runner.run(ECHO, ["before"]) == b"before"
        await other.client_pause(60_000, all=False)  # scripts among what waits
        try:
            with pytest.raises(TimeoutError):
                await runner.run(ECHO, ["late"])
        finally:
            await other.client_unpause()
    runner._seconds = 30
    assert await asyncio.gather(*(runner.run(ECHO, [n]) for n in range(3))) == [b"0", b"1", b"2"]
    await runner.close()


async def test_what_nobody_waits_for_is_not_sent(runner: ScriptRunner, valkey: str) -> None:
    left = asyncio.create_task(runner.run("return redis.call('SET', ARGV[1], 1)", ["test_script_runner"]))
    await asyncio.sleep(0)
    left.cancel()
    assert await runner.run("return redis.call('EXISTS', ARGV[1])", ["test_script_runner"]) == 0


async def test_what_waits_at_a_stop_fails(runner: ScriptRunner) -> None:
    waiting = [asyncio.create_task(runner.run(ECHO, [n])) for n in range(3)]
    await asyncio.sleep(0)
    await runner.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [ConnectionError] * 3
