"""`drw config`: every setting of the platform, and where it was set."""

from __future__ import annotations

from typing import Any

import typer

from drw.cli.options import DataDir, Json, write_json, write_table
from drw.kernel.errors import NotFound
from drw.local.credentials import local

SECRETS = ("secret", "password", "token", "api_key")
"""How the names of settings end that nobody should see on a screen or in a bug report."""

HIDDEN = "(set, not shown)"


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    app.command(rich_help_panel=panel)(config)


def config(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show every setting with its value, and the file or variable that set it."""
    from drw.kernel.settings import Layers  # here, since pydantic takes longer than most commands

    layout = local(data_dir)
    if not layout.profile.exists():
        raise NotFound(f"no platform was started in {layout.data}: start one with `drw up`")
    layers = Layers(layout.files)
    values = {name: _shown(name, value) for name, value in _flat(layers.profile().model_dump(mode="json")).items()}
    rows = [(name, value, layers.origins.get(name, "default")) for name, value in values.items()]
    if as_json:
        write_json([{"name": n, "value": v, "origin": o} for n, v, o in rows])
    else:
        write_table(("SETTING", "VALUE", "FROM"), rows)


def _shown(name: str, value: Any) -> Any:
    """Return what may be seen of a setting: of a secret no more than that it is set."""
    last = name.rpartition(".")[2]
    return HIDDEN if value and last.endswith(SECRETS) else value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
