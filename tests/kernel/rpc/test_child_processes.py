"""Child processes of a process with active gRPC calls, on uvloop, whose fork runs the handlers of gRPC."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import drw
import asyncio

import grpc
import grpc.aio
import uvloop

async def echo(request, context):
    return request

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("T", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(6)]
    ended = asyncio.Event()

    async def call(channel):
        while not ended.is_set():
            await channel.unary_unary("/T/Echo")(b"x" * 100)

    async with asyncio.TaskGroup() as tasks:
        for channel in channels:
            tasks.create_task(call(channel))
        statuses = []
        for _ in range(200):
            child = await asyncio.create_subprocess_exec("/bin/true")
            statuses.append(await child.wait())
        ended.set()
    print(sorted(set(statuses)))

uvloop.run(main())
"""


def test_no_child_ends_before_its_program_starts() -> None:
    env = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env, timeout=120)
    assert result.stdout == "[0]\n", result.stderr
