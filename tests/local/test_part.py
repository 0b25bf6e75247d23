"""A child process: ready, started again when it dies, stopped; its failures in one sentence."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from drw.kernel.errors import InternalError
from drw.local.paths import PlatformPaths
from drw.local.processes.child_process import ChildProcess, ProcessFailed, ProcessSpec, ProcessState
from drw.local.processes.output import BACKUPS, ProcessOutput

IDLE = [sys.executable, "-c", "import signal; open('up', 'a').write('x'); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'a').write('x')\n"
    "while True: signal.pause()",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Told(ChildProcess):
    """A child process with what it tells."""

    said: list[str]


def child(here: Path, command: list[str], **more: Any) -> Told:
    async def ready() -> bool:
        return (here / "up").exists()

    said: list[str] = []
    made = Told(
        ProcessSpec(name="thing", title="a thing", command=lambda: command, ready=ready, **more),
        here / "log",
        said.append,
    )
    made.said = said
    return made


async def until(condition, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_killed_child_is_started_again(here: Path) -> None:
    thing = child(here, IDLE)
    await thing.start()
    keeper = asyncio.create_task(thing.supervise())
    first = thing.pid
    thing.kill(signal.SIGKILL)
    await until(lambda: thing.restarts == 1 and thing.state == ProcessState.READY)
    assert thing.pid not in (None, first)
    assert thing.said == ["thing was killed by SIGKILL; starting it again"]
    await thing.stop()
    await keeper
    assert thing.pid is None
    assert thing.state == ProcessState.STOPPED


async def test_whatever_comes_in_the_way_of_a_start_ends_no_further_attempt(here: Path) -> None:
    hindrances = [OSError("no more processes"), InternalError("no files of its own")]

    async def prepare() -> None:
        if (here / "up").exists() and hindrances:
            raise hindrances.pop(0)

    thing = child(here, IDLE, prepare=prepare)
    await thing.start()
    keeper = asyncio.create_task(thing.supervise())
    thing.kill(signal.SIGKILL)
    await until(lambda: thing.state == ProcessState.READY and thing.restarts == 3)
    assert thing.said[1] == "thing could not be started: no more processes; starting it again"
    await thing.stop()
    await keeper


async def test_a_child_that_is_stopped_before_its_next_start_is_not_started(here: Path) -> None:
    goes_on, asked = asyncio.Event(), asyncio.Event()

    async def prepare() -> None:
        if (here / "up").exists():
            asked.set()
            await goes_on.wait()

    thing = child(here, IDLE, prepare=prepare)
    await thing.start()
    keeper = asyncio.create_task(thing.supervise())
    thing.kill(signal.SIGKILL)
    await asked.wait()
    await thing.stop()
    goes_on.set()
    await keeper
    assert thing.pid is None
    assert thing.state == ProcessState.STOPPED


async def test_a_child_that_ends_while_it_starts_says_why(here: Path) -> None:
    thing = child(here, [sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with pytest.raises(ProcessFailed, match="thing ended with code 1 while it started: no such model"):
        await thing.start()
    assert thing.pid is None


async def test_a_child_that_never_gets_ready_is_killed(here: Path) -> None:
    thing = child(here, [sys.executable, "-c", "import signal; signal.pause()"], start_seconds=0.3)
    with pytest.raises(ProcessFailed, match="was not ready within"):
        await thing.start()
    assert thing.pid is None


async def test_a_child_that_will_not_stop_is_killed(here: Path) -> None:
    thing = child(here, STUBBORN, stop_seconds=0.2)
    await thing.start()
    await thing.stop()
    assert thing.pid is None
    assert "killed" in thing.said[0]


async def test_children_end_with_their_supervisor(here: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_part import IDLE, child\n"
        "async def main():\n"
        "    thing = child(Path('.'), IDLE)\n"
        "    await thing.start()\n"
        "    print(thing.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(Path(__file__).parent), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid = int(await supervisor.stdout.readline())
    os.kill(supervisor.pid, signal.SIGKILL)
    await supervisor.wait()
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_the_log_of_a_part_that_runs_is_put_aside_without_losing_a_line(here: Path) -> None:
    code = (
        "import signal, sys\n"
        "for number in range(20_000):\n"
        "    print(f'line {number:05}', file=(sys.stdout, sys.stderr)[number % 7 == 0], flush=True)\n"
        "open('up', 'a').write('x')\n"
        "signal.pause()"
    )
    thing = child(here, [sys.executable, "-c", code])
    thing._output = ProcessOutput(here / "log", max_bytes=60_000)
    await thing.start()
    await thing.stop()
    files = [here / name for name in ("log.3.log", "log.2.log", "log.1.log", "log")]
    lines = [file.read_text().splitlines() for file in files if file.exists()]
    assert len(lines) > 1
    assert [line for file in lines for line in file] == [f"line {number:05}" for number in range(20_000)]


def test_only_so_many_old_files_are_kept_and_no_line_is_in_two(tmp_path: Path) -> None:
    log = ProcessOutput(tmp_path / "log", max_bytes=20)
    for part in (b"one\ntw", b"o\n", *(b"%010d\n" % number for number in range(50)), b"no end"):
        log.append(part)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["log", *(f"log.{number}.log" for number in range(1, BACKUPS + 1))]
    assert all(file.stat().st_size < 40 for file in tmp_path.iterdir())
    assert log.last_line() == "no end"
    assert (tmp_path / "log.1.log").read_bytes().endswith(b"49\n")


def test_a_log_that_is_followed_is_followed_into_its_next_file(tmp_path: Path) -> None:
    file = PlatformPaths.of(tmp_path).log("models")
    file.parent.mkdir(parents=True)
    file.write_text("first\n")
    command = [sys.executable, "-m", "drw.cli.main", "logs", "models", "--follow", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert "first" in following.stdout.readline()
        file.replace(file.with_suffix(".1.log"))
        file.write_text("second\n")
        assert "second" in following.stdout.readline()
        following.kill()
