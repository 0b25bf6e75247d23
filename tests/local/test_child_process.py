"""Start, restart, stop and log rotation of a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from drw.kernel.errors import InternalError
from drw.local.paths import PlatformPaths
from drw.local.processes.child_process import ChildProcess, ProcessFailed, ProcessSpec, ProcessState
from drw.local.processes.output import BACKUPS, ProcessOutput
from support.json_types import Json

IDLE = [sys.executable, "-c", "import signal; open('up', 'a').write('x'); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'a').write('x')\n"
    "while True: signal.pause()",
]


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class RecordingChild(ChildProcess):
    """A child process that records its messages."""

    messages: list[str]


def child_process(work_folder: Path, command: list[str], **options: Json) -> RecordingChild:
    async def ready() -> bool:
        return (work_folder / "up").exists()

    messages: list[str] = []
    process = RecordingChild(
        ProcessSpec(name="thing", title="a thing", command=lambda: command, ready=ready, **options),
        work_folder / "log",
        messages.append,
    )
    process.messages = messages
    return process


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_killed_process_is_restarted(work_folder: Path) -> None:
    process = child_process(work_folder, IDLE)
    await process.start()
    supervision = asyncio.create_task(process.supervise())
    first = process.pid
    process.kill(signal.SIGKILL)
    await until(lambda: process.restarts == 1 and process.state == ProcessState.READY)
    assert process.pid not in (None, first)
    assert process.messages == ["thing was killed by SIGKILL; starting it again"]
    await process.stop()
    await supervision
    assert process.pid is None
    assert process.state == ProcessState.STOPPED


async def test_failed_restart_is_retried(work_folder: Path) -> None:
    errors = [OSError("no more processes"), InternalError("no files of its own")]

    async def prepare() -> None:
        if (work_folder / "up").exists() and errors:
            raise errors.pop(0)

    process = child_process(work_folder, IDLE, prepare=prepare)
    await process.start()
    supervision = asyncio.create_task(process.supervise())
    process.kill(signal.SIGKILL)
    await until(lambda: process.state == ProcessState.READY and process.restarts == 3)
    assert process.messages[1] == "thing could not be started: no more processes; starting it again"
    await process.stop()
    await supervision


async def test_process_stopped_during_a_restart_is_not_started(work_folder: Path) -> None:
    finish_prepare, prepare_called = asyncio.Event(), asyncio.Event()

    async def prepare() -> None:
        if (work_folder / "up").exists():
            prepare_called.set()
            await finish_prepare.wait()

    process = child_process(work_folder, IDLE, prepare=prepare)
    await process.start()
    supervision = asyncio.create_task(process.supervise())
    process.kill(signal.SIGKILL)
    await prepare_called.wait()
    await process.stop()
    finish_prepare.set()
    await supervision
    assert process.pid is None
    assert process.state == ProcessState.STOPPED


async def test_exit_during_start_is_an_error_with_the_last_log_line(work_folder: Path) -> None:
    process = child_process(work_folder, [sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with pytest.raises(ProcessFailed, match="thing ended with code 1 while it started: no such model"):
        await process.start()
    assert process.pid is None


async def test_process_that_never_becomes_ready_is_killed(work_folder: Path) -> None:
    process = child_process(work_folder, [sys.executable, "-c", "import signal; signal.pause()"], start_seconds=0.3)
    with pytest.raises(ProcessFailed, match="was not ready within"):
        await process.start()
    assert process.pid is None


async def test_process_that_ignores_sigterm_is_killed(work_folder: Path) -> None:
    process = child_process(work_folder, STUBBORN, stop_seconds=0.2)
    await process.start()
    await process.stop()
    assert process.pid is None
    assert "killed" in process.messages[0]


async def test_processes_end_with_their_supervisor(work_folder: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from local.test_child_process import IDLE, child_process\n"
        "async def main():\n"
        "    process = child_process(Path('.'), IDLE)\n"
        "    await process.start()\n"
        "    print(process.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(Path(__file__).parents[1]), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid = int(await supervisor.stdout.readline())
    os.kill(supervisor.pid, signal.SIGKILL)
    await supervisor.wait()
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_log_rotation_of_a_running_process_loses_no_line(work_folder: Path) -> None:
    code = (
        "import signal, sys\n"
        "for number in range(20_000):\n"
        "    print(f'line {number:05}', file=(sys.stdout, sys.stderr)[number % 7 == 0], flush=True)\n"
        "open('up', 'a').write('x')\n"
        "signal.pause()"
    )
    process = child_process(work_folder, [sys.executable, "-c", code])
    process._output = ProcessOutput(work_folder / "log", max_bytes=60_000)
    await process.start()
    await process.stop()
    files = [work_folder / name for name in ("log.3.log", "log.2.log", "log.1.log", "log")]
    lines = [file.read_text().splitlines() for file in files if file.exists()]
    assert len(lines) > 1
    assert [line for file in lines for line in file] == [f"line {number:05}" for number in range(20_000)]


def test_log_backups_are_limited_and_lines_are_not_split(tmp_path: Path) -> None:
    log = ProcessOutput(tmp_path / "log", max_bytes=20)
    for chunk in (b"one\ntw", b"o\n", *(b"%010d\n" % number for number in range(50)), b"no end"):
        log.append(chunk)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["log", *(f"log.{number}.log" for number in range(1, BACKUPS + 1))]
    assert all(file.stat().st_size < 40 for file in tmp_path.iterdir())
    assert log.last_line() == "no end"
    assert (tmp_path / "log.1.log").read_bytes().endswith(b"49\n")


def test_followed_log_continues_after_rotation(tmp_path: Path) -> None:
    file = PlatformPaths.of(tmp_path).log("models")
    file.parent.mkdir(parents=True)
    file.write_text("first\n")
    command = [sys.executable, "-m", "drw.cli.main", "logs", "models", "--follow", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert "first" in follower.stdout.readline()
        file.replace(file.with_suffix(".1.log"))
        file.write_text("second\n")
        assert "second" in follower.stdout.readline()
        follower.kill()
