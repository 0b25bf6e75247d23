"""Documentation shows commands of `drw`, options, settings and TOML examples that are valid."""

from __future__ import annotations

import re
import secrets
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from drw.cli.help import Sections
from drw.cli.main import make_app
from drw.generate.protos import ROOT
from drw.kernel.runtime.settings import SettingLayers
from drw.local.configuration import errors
from support.json_types import JsonObject

PAGES = sorted([ROOT / "README.md", ROOT / "tests/README.md", *(ROOT / "docs").rglob("*.md")])
HANDWRITTEN = [page for page in PAGES if page.parent != ROOT / "docs/reference"]

BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.S | re.M)
OTHER_MODELS = ("llama-8b", "llama-8b-new", "gpt-4o")
"""Models that examples use without defining them."""
TOML = re.compile(r"^```toml\n(.*?)^```", re.S | re.M)
INLINE = re.compile(r"`(drw [^`]+)`")
COMMAND = re.compile(r"""(?:^|\$\(|&& )(?:\.venv/bin/)?drw ((?:'[^']*'|"[^"]*"|[^|#&>)'"\n])*)""", re.M)
PLACEHOLDER = re.compile(r"[A-Z]{3,}|^\.\.\.$")
"""`NAME` and `...` are placeholders."""
SETTING = re.compile(r"`(?:\[)?(services(?:\.[a-z_][\w-]*)+)|^(?:\[)?(services(?:\.[a-z_][\w-]*)+)", re.M)


@pytest.mark.parametrize("page", HANDWRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = [block.replace("\\\n", " ") for block in BLOCK.findall(text)] + INLINE.findall(text)
    invalid = [
        f"drw {command_line}"
        for line in lines
        for command_line in COMMAND.findall(line)
        if not is_command(command_line)
    ]
    assert invalid == []


def test_unknown_command_or_option_is_found() -> None:
    assert is_command("keys create --desk rates -s models:invoke --ttl 30d")
    assert not is_command("keys make --desk rates")
    assert not is_command("keys create --team rates")
    assert not is_command("kill list --everything")


def is_command(command_line: str) -> bool:
    """Return whether the subcommands and the options of a command line exist."""
    command = cli()
    for word in shlex.split(command_line):
        commands: JsonObject = getattr(command, "commands", {})
        if word.startswith("-") and len(word) > 1:
            names = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
            if word.partition("=")[0] not in {*names, "--help"}:
                return False
        elif word in commands:
            command = commands[word]
        elif commands and not command.invoke_without_command and not PLACEHOLDER.search(word):
            return False
    return True


@cache
def cli() -> Sections:
    command = typer.main.get_command(make_app())
    assert isinstance(command, Sections)
    return command


@pytest.mark.parametrize("page", HANDWRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_of_a_page_exist(page: Path) -> None:
    names = ["".join(groups) for groups in SETTING.findall(page.read_text(encoding="utf-8"))]
    invalid = [name for name in names if not is_setting(name)]
    assert invalid == []


def test_unknown_setting_is_found() -> None:
    assert is_setting("services.serving.circuits.window")
    assert is_setting("services.discovery.models.llama-70b.sampling")
    assert not is_setting("services.serving.circuits.windows")


def is_setting(name: str) -> bool:
    """Return whether a name is a setting or a table of settings."""
    return any(pattern.match(name) for pattern in settings())


@cache
def settings() -> list[re.Pattern[str]]:
    names = re.findall(r"^\| `([\w.*]+)`", (ROOT / "docs/reference/settings.md").read_text(), re.M)
    tables = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count("."))}
    return [re.compile(name.replace(".", r"\.").replace("*", r"[\w-]+") + "$") for name in tables]


@pytest.mark.parametrize("page", HANDWRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_toml_examples_of_a_page_are_valid_settings(page: Path, tmp_path: Path) -> None:
    invalid = [
        error for text in TOML.findall(page.read_text(encoding="utf-8")) for error in setting_errors(tmp_path, text)
    ]
    assert invalid == []


def test_invalid_toml_example_is_found(tmp_path: Path) -> None:
    assert setting_errors(tmp_path, "data_plane.connections.moste = 1\n")
    assert setting_errors(tmp_path, 'services.serving.circuits.window = "many"\n')
    assert not setting_errors(tmp_path, "services.serving.circuits.window = 20\n")


def setting_errors(folder: Path, text: str) -> list[str]:
    """Return the errors of an example, which may be only a part of a profile."""
    (folder / "drw.toml").write_text(text)
    models = {name: {"engine": "openai", "base_url": "http://127.0.0.1/v1"} for name in OTHER_MODELS}
    discovery = {"models": models, "default_model": OTHER_MODELS[0]}
    defaults = {"services": {"discovery": discovery, "authentication": {"secret": secrets.token_urlsafe(48)}}}
    layers = SettingLayers([folder / "drw.toml"], environ={}, base=("others", defaults))
    return [error for error in errors(layers) if not error.endswith(" is missing")]
