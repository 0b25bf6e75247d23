"""Script runner: concurrent scripts share a round trip, each with its own result or error, within a timeout."""

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
    runner = ScriptRunner(valkey, 5)
    yield runner
    await runner.close()


async def test_concurrent_scripts_share_one_round_trip(runner: ScriptRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    await runner.run(ECHO, [0])
    exchanges, send = [], runner._connection.send_packed_command

    async def count_commands(commands: list[bytes], **options: bool) -> None:
        exchanges.append(len(commands))
        await send(commands, **options)

    monkeypatch.setattr(runner._connection, "send_packed_command", count_commands)
    assert await asyncio.gather(*(runner.run(ECHO, [n]) for n in range(20))) == [b"%d" % n for n in range(20)]
    assert exchanges == [20]


async def test_a_rejected_script_fails_alone(runner: ScriptRunner) -> None:
    results = await asyncio.gather(
        runner.run(ECHO, ["before"]),
        runner.run("return redis.call('NOTHING')", []),
        runner.run(ECHO, ["after"]),
        return_exceptions=True,
    )
    assert list(results[::2]) == [b"before", b"after"]
    assert isinstance(results[1], ResponseError)


async def test_a_restart_of_valkey_is_transparent(runner: ScriptRunner, valkey: str) -> None:
    await runner.run(ECHO, [1])
    async with redis.asyncio.Redis.from_url(valkey) as other:  # drops scripts and connections, like a restart
        await other.script_flush()
        await other.client_kill_filter(_type="normal", skipme=True)
    assert await asyncio.gather(*(runner.run(ECHO, [n]) for n in (2, 3))) == [b"2", b"3"]


async def test_a_frozen_valkey_fails_all_waiting_scripts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(tmp_path / "frozen"))
        frozen.listen()  # the kernel accepts connections, nothing reads them
        runner = ScriptRunner(f"unix://{tmp_path}/frozen", 0.05)
        first = asyncio.create_task(runner.run(ECHO, [1]))
        await asyncio.sleep(0)
        results = await asyncio.gather(first, *(runner.run(ECHO, [n]) for n in range(5)), return_exceptions=True)
        await runner.close()
    assert [type(error) for error in results] == [TimeoutError] * 6


async def test_a_late_response_is_never_returned_for_another_script(valkey: str) -> None:
    runner = ScriptRunner(valkey, 0.05)
    async with redis.asyncio.Redis.from_url(valkey) as other:
        assert await runner.run(ECHO, ["before"]) == b"before"
        await other.client_pause(60_000, all=False)  # pauses writes, which includes scripts
        try:
            with pytest.raises(TimeoutError):
                await runner.run(ECHO, ["late"])
        finally:
            await other.client_unpause()
    runner._seconds = 30
    assert await asyncio.gather(*(runner.run(ECHO, [n]) for n in range(3))) == [b"0", b"1", b"2"]
    await runner.close()


async def test_a_cancelled_script_is_not_sent(runner: ScriptRunner, valkey: str) -> None:
    cancelled = asyncio.create_task(runner.run("return redis.call('SET', ARGV[1], 1)", ["test_script_runner"]))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await runner.run("return redis.call('EXISTS', ARGV[1])", ["test_script_runner"]) == 0


async def test_waiting_scripts_fail_at_close(runner: ScriptRunner) -> None:
    waiting = [asyncio.create_task(runner.run(ECHO, [n])) for n in range(3)]
    await asyncio.sleep(0)
    await runner.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in results] == [ConnectionError] * 3
