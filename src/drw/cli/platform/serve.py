"""`drw serve`, `migrate`, `first-key`, `data-plane`: processes of a platform on Kubernetes or another orchestrator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drw.catalog import BY_NAME
from drw.cli.options import write
from drw.kernel.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from drw.kernel.runtime.settings import Profile

SETTINGS_VARIABLE = "DRW_CONFIG"

Config = Annotated[
    list[Path],
    typer.Option(
        "--config",
        envvar=SETTINGS_VARIABLE,
        help="TOML file of the profile; repeatable. Later files override earlier ones, and DRW__... variables all.",
        show_default=False,
    ),
]

data_plane = typer.Typer(help="Processes of a data plane: Envoy and its agent.", no_args_is_help=True)


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    for command in (serve, migrate):
        app.command(rich_help_panel=panel)(command)
    app.command("first-key", rich_help_panel=panel)(first_key)
    app.add_typer(data_plane, name="data-plane", rich_help_panel=panel)


def serve(
    services: Annotated[
        list[str], typer.Argument(help="Services of one process of the profile.", metavar="SERVICE...")
    ],
    config: Config,
) -> None:
    """Run one or more services in this process until SIGTERM.

    The profile has the addresses of all processes. It must have a process with exactly these services.
    """
    from drw.kernel.runtime import process

    profile = _profile(config)
    raise typer.Exit(process.run(profile, process_of(profile, services)))


def process_of(profile: Profile, services: list[str]) -> str:
    """Return the process of the profile that runs exactly these services.

    Raises:
        NotFound: there is no such service or process.
    """
    for service in services:
        if service not in BY_NAME:
            raise NotFound(f"there is no service {service!r}; there are: {', '.join(BY_NAME)}")
    for name, address in profile.processes.items():
        if set(address.services) == set(services):
            return name
    processes = "; ".join(f"{name}: {' '.join(each.services)}" for name, each in profile.processes.items())
    raise NotFound(f"no process of the profile runs exactly {' '.join(services)}; it has {processes or 'none'}")


def migrate(config: Config) -> None:
    """Apply all database migrations of this release.

    Processes with the setting `migrations = "await"` wait for them.
    """
    import asyncio

    from drw.cli.platform import migrations

    schemas = asyncio.run(migrations.apply(_profile(config)))
    write(f"the migrations of {len(schemas)} schemas are applied: {', '.join(schemas)}")


def first_key(config: Config) -> None:
    """Print a new API key with every scope, for the first operator. Works only where authentication runs.

    The key belongs to the desk `local/research`, which is created. It is not stored: run the command once, create
    your orgs, desks and keys with it, then revoke it.
    """
    import asyncio

    from drw.kernel.rpc.transport import Channels
    from drw.kernel.runtime.mutual_tls import identities_of
    from drw.local import first_key

    profile = _profile(config)
    address = profile.address_of("authentication")

    async def create() -> str:
        channels = Channels(identities_of(profile))
        try:
            return await first_key.create(channels, address.listener(address.grpc))
        finally:
            await channels.close()

    write(asyncio.run(create()))


@data_plane.command()
def agent(config: Config) -> None:
    """Run the agent, which writes the configuration of the Envoy beside it, until SIGTERM."""
    from drw.agent import __main__ as agent_process

    raise typer.Exit(agent_process.run(_profile(config)))


@data_plane.command()
def envoy(config: Config) -> None:
    """Replace this process by Envoy. The agent must have written its first configuration."""
    from drw.agent.delivery import envoy as envoy_process

    profile = _profile(config)
    if not (file := envoy_process.ready_file(profile)).exists():
        raise NotFound(f"there is no {file}: start `drw data-plane agent` first")
    command = envoy_process.command(profile)
    os.execv(command[0], command)


@data_plane.command()
def drain(
    config: Config,
    announce: Annotated[float, typer.Option(help="Seconds in which load balancers learn of the end.", min=0)] = 10.0,
    seconds: Annotated[float, typer.Option(help="Maximum seconds to wait for requests in flight.", min=0)] = 600.0,
) -> None:
    """Wait until Envoy has no request in flight. SIGTERM then cuts none.

    Connections close as their requests end. New requests are served until load balancers have removed the data plane.
    """
    import asyncio

    from drw.agent.adapters.envoy_admin import EnvoyAdmin
    from drw.agent.delivery import envoy as envoy_process

    admin = EnvoyAdmin(envoy_process.data_plane_settings(_profile(config)).admin)

    async def wait() -> None:
        await asyncio.sleep(announce)
        await admin.drain(seconds)

    asyncio.run(wait())


def _profile(files: list[Path]) -> Profile:
    from drw.kernel.runtime.settings import SettingLayers

    if not files:
        raise InvalidRequest(f"no profile: name its file with --config or {SETTINGS_VARIABLE}")
    return SettingLayers(files).profile()
