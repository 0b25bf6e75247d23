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
from drw.cli.platform.health import model_rows, show_history
from drw.cli.terminal import stream
from drw.kernel.errors import InternalError, InvalidRequest, NotFound, Unavailable
from drw.local.credentials import Credentials, local_paths
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
    bus: Annotated[
        str,
        typer.Option(help="Event bus: valkey, kafka or pubsub. Default: the setting bus.adapter.", show_default=False),
    ] = "",
    bus_address: Annotated[
        str, typer.Option(help="Kafka: host:port of a broker. Pub/Sub: the Google Cloud project.", show_default=False)
    ] = "",
    mtls: Annotated[
        bool, typer.Option("--mtls", help="Mutual TLS between processes, with certificates of an own authority.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Detach once the platform is ready.")] = False,
    no_welcome: Annotated[bool, typer.Option("--no-welcome", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Start the platform and keep it running until Ctrl-C."""
    paths = local_paths(data_dir)
    paths.prepare()
    _select_bus(bus, bus_address)
    if mtls:
        os.environ["DRW__MTLS__FOLDER"] = str(paths.certificates)
    listen = f"127.0.0.1:{port or free_port('127.0.0.1')}"

    def ready(response: dict[str, Any]) -> None:
        if as_json:
            write_json(response)
        elif not no_welcome:
            _print_welcome(paths, response)

    with locked(paths):  # clear errors before any process starts
        check_before_start(paths, listen)
    if detach:
        ready(_start_detached(paths, listen, quiet=as_json))
        return
    import asyncio  # imported here to keep other commands fast

    from drw.local.processes.supervisor import Supervisor

    def print_line(line: str) -> None:
        warn(f"  {line}") if as_json else stream(f"  {line}\n")

    asyncio.run(Supervisor(paths, listen, print_line).run(ready))


def _select_bus(bus: str, address: str) -> None:
    """Set the event bus in the environment, which all processes of the platform inherit."""
    addresses = {"kafka": "DRW__BUS__KAFKA__BOOTSTRAP", "pubsub": "DRW__BUS__PUBSUB__PROJECT"}
    if address and bus not in addresses:
        raise InvalidRequest(f"--bus-address {address!r} needs --bus kafka or --bus pubsub")
    if bus:
        os.environ["DRW__BUS__ADAPTER"] = bus
    if address:
        os.environ[addresses[bus]] = address


def down(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Stop the platform."""
    paths = local_paths(data_dir)
    was_running = _send_command(paths, "stop") is not None
    deadline = time.monotonic() + STOP_SECONDS
    while was_running and paths.control.exists() and _send_command(paths, "status") is not None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the platform did not stop within {STOP_SECONDS} s; see {paths.log('supervisor')}")
        time.sleep(0.1)
    if as_json:
        write_json({"stopped": was_running})
    else:
        write("stopped" if was_running else f"no platform runs in {paths.data}")


def status(
    service: Annotated[
        str, typer.Argument(help="With --history: only this service, or model/ID.", show_default=False)
    ] = "",
    history: Annotated[bool, typer.Option("--history", help="Show the changes of state, newest first.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show all processes, services and models. Exits with 0 only if all processes and services are healthy."""
    if history:
        show_history(service, data_dir, as_json)
        return
    if service:
        raise InvalidRequest(f"{service!r} needs --history: `drw status --history {service}`")
    paths = local_paths(data_dir)
    response = _send_command(paths, "status")
    if response is None:
        if as_json:
            write_json({"healthy": False, "ready": False, "data": str(paths.data), "processes": [], "services": []})
            raise typer.Exit(1)
        warn(f"no platform runs in {paths.data}: start one with `drw up`")
        raise typer.Exit(1)
    if as_json:
        write_json(response)
    else:
        _print_status(response)
    if not response["healthy"]:
        raise typer.Exit(1)


def logs(
    name: Annotated[str, typer.Argument(help=f"A service, or a process: {', '.join(PROCESSES)}.", show_default=False)],
    data_dir: DataDir = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="Number of lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log.")] = False,
    as_json: Json = False,
) -> None:
    """Show the log of a service or a process."""
    paths = local_paths(data_dir)
    process = _process_of(name)
    file = paths.log(process)
    if not file.exists():
        raise NotFound(f"{process} has written no log in {paths.data}")
    with ExitStack() as stack:
        stream = stack.enter_context(_open_log(file))
        for line in deque(stream, maxlen=lines):
            _write_log(line, as_json)
        sys.stdout.flush()
        while follow:
            rotated = _rotated(file, stream)  # checked before the last read, so that no line is missed
            if line := stream.readline():
                _write_log(line, as_json)
                sys.stdout.flush()
            elif rotated:
                stream.close()
                stream = stack.enter_context(_open_log(file))
            else:
                time.sleep(0.2)


def _open_log(file: Path) -> TextIO:
    return file.open(encoding="utf-8", errors="replace")


def _rotated(file: Path, stream: TextIO) -> bool:
    """Return whether the log was rotated since it was opened."""
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


def _process_of(name: str) -> str:
    if name in PROCESSES:
        return name
    if name in BY_NAME:
        return "gateway" if BY_NAME[name] in SUPPORT else BY_NAME[name].cluster
    raise InvalidRequest(f"no service or process {name!r}. Known: {', '.join([*BY_NAME, *PROCESSES])}")


def _start_detached(paths: PlatformPaths, listen: str, *, quiet: bool) -> dict[str, Any]:
    log = paths.log("supervisor")
    command = [
        sys.executable,
        "-m",
        "drw.cli.main",
        "up",
        "--data-dir",
        str(paths.data),
        "--port",
        listen.split(":")[1],
        "--no-welcome",  # its output goes to a log, which must not contain a key
    ]
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    last_line = ""
    with log.open(encoding="utf-8", errors="replace") as output:
        while time.monotonic() < deadline:
            exited = child.poll() is not None
            response = _send_command(paths, "status")
            for line in output:
                if line.startswith("  ") and not quiet and not (response and response["ready"]):
                    stream(line)
                last_line = line.strip()
            if response and response["ready"]:
                return response
            if exited:
                raise InternalError(last_line.removeprefix("drw: "))
            time.sleep(0.1)
    child.terminate()
    raise Unavailable(f"the platform was not ready within {START_SECONDS} s; see {log}")


def _send_command(paths: PlatformPaths, command: str) -> dict[str, Any] | None:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(15)
            sock.connect(str(paths.control))
            sock.sendall(command.encode() + b"\n")
            with sock.makefile("rb") as answer:
                response: dict[str, Any] = json.loads(answer.readline() or b"null")
                return response
    except (FileNotFoundError, ConnectionError):
        return None
    except OSError as error:
        raise Unavailable(f"the platform in {paths.data} runs and does not answer: {error}") from error


def _print_welcome(paths: PlatformPaths, response: dict[str, Any]) -> None:
    _print_status(response)
    credentials = Credentials.read(paths)
    drw = _command_prefix(paths)
    write(f"\nThe gateway listens at {credentials.url}.")
    if response["new_key"]:
        write(f"Your first API key, shown this once (`{drw} env` prints it again):\n\n{credentials.key}")
    write("\nTry:")
    write(f'  {drw} chat "Say hello"')
    write(f"  {drw} ingest src/drw/demo/documents --collection demo")
    write(f'  {drw} ask "Who signs a waiver of a risk limit?" --collection demo')


def _command_prefix(paths: PlatformPaths) -> str:
    executable = Path(sys.prefix) / "bin" / "drw"
    try:
        command = str(executable.relative_to(Path.cwd()))
    except ValueError:
        command = str(executable)
    return command if paths == PlatformPaths.of(None) else f"DRW_DATA_DIR={shlex.quote(str(paths.data))} {command}"


def _print_status(response: dict[str, Any]) -> None:
    if response["processes"]:
        rows = [
            (p["name"], p["state"], p["pid"] or "", p["restarts"] or "", p["detail"]) for p in response["processes"]
        ]
        write_table(("PROCESS", "STATE", "PID", "RESTARTS", ""), rows)
    if response["services"]:
        write("")
        services = [(s["name"], s["cluster"], s["state"], s["detail"]) for s in response["services"]]
        write_table(("SERVICE", "CLUSTER", "STATE", ""), services)
    if models := response.get("models"):
        write("")
        write_table(("MODEL", "REPLICA", "CIRCUIT", "PROBE", "LATENCY", "AT (UTC)", ""), model_rows(models))
    write("")
    write(f"{response['gateway']}  {'healthy' if response['healthy'] else 'NOT healthy'}")
