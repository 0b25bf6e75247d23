"""`drw up`, `down`, `status`, `logs`, `env`: run a platform on this machine."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from drw.catalog import BY_NAME, SUPPORT
from drw.cli.escaping import visible_in_json
from drw.cli.options import DataDir, Json, warn, write, write_json, write_line, write_table
from drw.cli.platform.config import check_before_start
from drw.cli.terminal import stream
from drw.kernel.errors import InternalError, InvalidRequest, NotFound, Unavailable
from drw.local.credentials import Credentials, local
from drw.local.paths import PlatformPaths
from drw.local.preflight import free_port, locked

PROCESSES = ("postgres", "valkey", "engine", "gateway", "models", "rag", "workflow", "agent", "envoy", "supervisor")
START_SECONDS = 300
STOP_SECONDS = 60

Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port of the gateway on 127.0.0.1; 0: any free port.")
]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    for command in (up, down, status, logs, env):
        app.command(rich_help_panel=panel)(command)


def up(
    data_dir: DataDir = None,
    port: Port = 8080,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Detach once the platform is ready.")] = False,
    no_welcome: Annotated[bool, typer.Option("--no-welcome", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Start the platform and keep it running until Ctrl-C."""
    layout = local(data_dir)
    layout.prepare()
    listen = f"127.0.0.1:{port or free_port('127.0.0.1')}"

    def ready(response: dict[str, Any]) -> None:
        if as_json:
            write_json(response)
        elif not no_welcome:
            _welcome(layout, response)

    with locked(layout):  # clear errors before any process starts
        check_before_start(layout, listen)
    if detach:
        ready(_start_detached(layout, listen, quiet=as_json))
        return
    import asyncio  # imported here to keep other commands fast

    from drw.local.processes.supervisor import Supervisor

    def say(line: str) -> None:
        warn(f"  {line}") if as_json else stream(f"  {line}\n")

    asyncio.run(Supervisor(layout, listen, say).run(ready))


def down(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Stop the platform."""
    layout = local(data_dir)
    ran = _ask(layout, "stop") is not None
    end = time.monotonic() + STOP_SECONDS
    while ran and layout.control.exists() and _ask(layout, "status") is not None:
        if time.monotonic() > end:
            raise Unavailable(f"the platform did not stop within {STOP_SECONDS} s; see {layout.log('supervisor')}")
        time.sleep(0.1)
    if as_json:
        write_json({"stopped": ran})
    else:
        write("stopped" if ran else f"no platform runs in {layout.data}")


def status(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show all processes and services. Exits with 0 only if all are healthy."""
    layout = local(data_dir)
    response = _ask(layout, "status")
    if response is None:
        if as_json:
            write_json({"healthy": False, "ready": False, "data": str(layout.data), "processes": [], "services": []})
            raise typer.Exit(1)
        warn(f"no platform runs in {layout.data}: start one with `drw up`")
        raise typer.Exit(1)
    if as_json:
        write_json(response)
    else:
        _show(response)
    if not response["healthy"]:
        raise typer.Exit(1)


def logs(
    name: Annotated[str, typer.Argument(help=f"A service, or a process: {', '.join(PROCESSES)}.", show_default=False)],
    data_dir: DataDir = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log.")] = False,
    as_json: Json = False,
) -> None:
    """Show the log of a service or a process."""
    layout = local(data_dir)
    part = _part_of(name)
    file = layout.log(part)
    if not file.exists():
        raise NotFound(f"{part} has written no log in {layout.data}")
    with ExitStack() as opened:
        stream = opened.enter_context(_opened(file))
        for line in deque(stream, maxlen=lines):
            _write_log(line, as_json)
        sys.stdout.flush()
        while follow:
            aside = _put_aside(file, stream)  # checked before the last read, so that no line is missed
            if line := stream.readline():
                _write_log(line, as_json)
                sys.stdout.flush()
            elif aside:
                stream.close()
                stream = opened.enter_context(_opened(file))
            else:
                time.sleep(0.2)


def _opened(file: Path) -> TextIO:
    return file.open(encoding="utf-8", errors="replace")


def _put_aside(file: Path, stream: TextIO) -> bool:
    """Tell whether the log was rotated since it was opened."""
    try:
        return file.stat().st_ino != os.fstat(stream.fileno()).st_ino
    except FileNotFoundError:
        return False  # the new file does not exist yet


def env(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print the environment variables of the OpenAI client: `eval "$(drw env)"`."""
    credentials = Credentials.of(data_dir)
    values = {"OPENAI_BASE_URL": f"{credentials.url}/v1", "OPENAI_API_KEY": credentials.key}
    if as_json:
        write_json(values)
        return
    for name, value in values.items():
        write(f"export {name}={shlex.quote(value)}")


def _write_log(line: str, as_json: bool) -> None:
    # The platform's processes write JSON; PostgreSQL, Valkey and Envoy write text.
    if line.startswith("{"):
        stream(visible_in_json(line))
    elif as_json:
        write_line({"message": line.rstrip()})
    else:
        stream(line)


def _part_of(name: str) -> str:
    if name in PROCESSES:
        return name
    if name in BY_NAME:
        return "gateway" if BY_NAME[name] in SUPPORT else BY_NAME[name].cluster
    raise InvalidRequest(f"no service or process {name!r}. Known: {', '.join([*BY_NAME, *PROCESSES])}")


def _start_detached(layout: PlatformPaths, listen: str, *, quiet: bool) -> dict[str, Any]:
    log = layout.log("supervisor")
    command = [
        sys.executable,
        "-m",
        "drw.cli.main",
        "up",
        "--data-dir",
        str(layout.data),
        "--port",
        listen.split(":")[1],
        "--no-welcome",  # its output goes to a log, which must not contain a key
    ]
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    end = time.monotonic() + START_SECONDS
    last = ""
    with log.open(encoding="utf-8", errors="replace") as output:
        while time.monotonic() < end:
            ended = child.poll() is not None
            response = _ask(layout, "status")
            for line in output:
                if line.startswith("  ") and not quiet and not (response and response["ready"]):
                    stream(line)
                last = line.strip()
            if response and response["ready"]:
                return response
            if ended:
                raise InternalError(last.removeprefix("drw: "))
            time.sleep(0.1)
    child.terminate()
    raise Unavailable(f"the platform was not ready within {START_SECONDS} s; see {log}")


def _ask(layout: PlatformPaths, what: str) -> dict[str, Any] | None:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(15)
            sock.connect(str(layout.control))
            sock.sendall(what.encode() + b"\n")
            with sock.makefile("rb") as answer:
                response: dict[str, Any] = json.loads(answer.readline() or b"null")
                return response
    except (FileNotFoundError, ConnectionError):
        return None
    except OSError as error:
        raise Unavailable(f"the platform in {layout.data} runs and does not answer: {error}") from error


def _welcome(layout: PlatformPaths, response: dict[str, Any]) -> None:
    _show(response)
    credentials = Credentials.read(layout)
    drw = _command(layout)
    write(f"\nThe gateway listens at {credentials.url}.")
    if response["new_key"]:
        write(f"Your first API key, shown this once (`{drw} env` prints it again):\n\n{credentials.key}")
    write("\nTry:")
    write(f'  {drw} chat "Say hello"')
    write(f"  {drw} ingest src/drw/demo/documents --collection demo")
    write(f'  {drw} ask "Who signs a waiver of a risk limit?" --collection demo')


def _command(layout: PlatformPaths) -> str:
    near = Path(sys.prefix) / "bin" / "drw"
    try:
        shown = str(near.relative_to(Path.cwd()))
    except ValueError:
        shown = str(near)
    return shown if layout == PlatformPaths.of(None) else f"DRW_DATA_DIR={shlex.quote(str(layout.data))} {shown}"


def _show(response: dict[str, Any]) -> None:
    if response["processes"]:
        rows = [
            (p["name"], p["state"], p["pid"] or "", p["restarts"] or "", p["detail"]) for p in response["processes"]
        ]
        write_table(("PROCESS", "STATE", "PID", "RESTARTS", ""), rows)
    if response["services"]:
        write("")
        services = [(s["name"], s["cluster"], s["state"], s["detail"]) for s in response["services"]]
        write_table(("SERVICE", "CLUSTER", "STATE", ""), services)
    write("")
    write(f"{response['gateway']}  {'healthy' if response['healthy'] else 'NOT healthy'}")
