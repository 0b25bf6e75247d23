"""`drw config`: list and validate the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drw.cli.options import DataDir, Json, warn, write, write_json
from drw.kernel.errors import InvalidRequest, NotFound
from drw.local.credentials import local_paths
from drw.local.paths import PlatformPaths

if TYPE_CHECKING:
    from drw.kernel.runtime.settings import SettingLayers

EXIT_CODE = 2


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    app.command(rich_help_panel=panel)(config)


def config(
    name: Annotated[
        str, typer.Argument(help="Only settings whose name contains this, for example `serving`.", show_default=False)
    ] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Validate the settings, and list each with its value, default, and the file or variable that sets it.

    If settings are invalid, list the errors with file and line, or variable.
    """
    from drw.local import configuration  # imported here, because pydantic is slow to import

    paths = local_paths(data_dir)
    if not paths.profile.exists():
        raise NotFound(f"no platform was started in {paths.data}: start one with `drw up`")
    layers = _layers(paths.files)
    check(layers)
    matching = [s for s in configuration.current_settings(layers) if name in s.name]
    if not matching:
        raise NotFound(f"no setting has {name!r} in its name; `drw config` lists all")
    redacted = configuration.redacted
    shown = [s._replace(value=redacted(s.name, s.value), default=redacted(s.name, s.default)) for s in matching]
    if as_json:
        write_json([s._asdict() for s in shown])
        return
    for s in shown:
        default = ""
        if s.default == configuration.REQUIRED:
            default = ", required"
        elif s.value != s.default:
            default = f", default {json.dumps(s.default)}"
        write(f"{s.name} = {json.dumps(s.value, ensure_ascii=False)}  ({s.origin}{default})\n    {s.description}")


def check(layers: SettingLayers) -> None:
    """Print an error for each invalid setting and exit; return if all are valid."""
    from drw.local.configuration import errors

    if messages := errors(layers):
        for message in messages:
            warn(f"drw: {message}")
        raise typer.Exit(EXIT_CODE)


def check_before_start(paths: PlatformPaths, listen: str) -> None:
    """Validate the settings that `drw up` would start with."""
    paths.create_secrets()
    local_profile = str(paths.profile), paths.profile_values(listen)
    check(_layers([paths.secrets, paths.settings], local_profile))


def _layers(files: list[Path], local_profile: tuple[str, dict[str, Any]] | None = None) -> SettingLayers:
    from drw.kernel.runtime.settings import ConfigError, SettingLayers

    try:
        return SettingLayers(files, base=local_profile)
    except ConfigError as error:  # a file is unreadable or not TOML
        raise InvalidRequest(error.message) from None
