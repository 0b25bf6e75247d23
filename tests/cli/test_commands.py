"""The command as a program: exit codes and one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from secrets import token_urlsafe

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from drw.cli.audit import _abbreviated
from drw.cli.main import MODULES, make_app
from drw.cli.platform.platform import _print_welcome
from drw.cli.workflow.workflows import _show_output
from drw.generate.reference.cli import commands_page
from drw.kernel.runtime.settings import SettingLayers
from drw.local.paths import PlatformPaths


def drw(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DRW_")}
    command = [sys.executable, "-m", "drw.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**environ, **env}, timeout=60)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["keys", "list"], 3, "start one with `drw up`"),
        (["logs", "nothing"], 2, "no service or process 'nothing'. Known: authentication"),
        (["keys", "create"], 2, "needs at least one scope"),
        (["aliases", "set", "fast"], 2, "needs a target"),
        (["aliases", "set", "fast", "-t", "big=lots"], 2, "'big=lots' is not a target"),
        (["ingest", "/nothing"], 2, "there is no file or folder '/nothing'"),
        (["whoami"], 3, "start one with `drw up`"),
        (["orgs", "list"], 3, "start one with `drw up`"),
        (
            ["issuers", "put", "x", "--issuer", "i", "--org", "o", "--audience", "a", "--role", "x"],
            *(2, "--role is 'x'; use ROLE=SCOPE,SCOPE, for example trader=models:invoke,models:read"),
        ),
        (["config"], 3, "start one with `drw up`"),
        (["nothing"], 2, "no such command 'nothing'; see `drw --help`"),
        (["keys", "list", "--nothing"], 2, "no such option: --nothing"),
        (["keys", "revoke"], 2, "missing argument 'key'; see `drw keys revoke --help`"),
        (["up", "--port", "99999"], 2, "invalid value for '--port'"),
        (["chat", "--temperature", "3", "x"], 2, "invalid value for '--temperature'"),
        (["chat", " "], 2, "the prompt is empty"),
        (["env"], 3, "start one with `drw up`"),
    ],
)
def test_errors_are_one_line_with_a_hint(tmp_path: Path, args: list[str], code: int, message: str) -> None:
    result = drw(*args, DRW_DATA_DIR=str(tmp_path))
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.startswith("drw: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize("args", [["--help"], ["config", "serving"], ["config", "--json"]], ids=" ".join)
def test_a_command_ends_quietly_when_its_output_is_closed(tmp_path: Path, args: list[str]) -> None:
    paths = PlatformPaths.of(tmp_path)
    paths.prepare()
    paths.write_profile("127.0.0.1:8080")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed_pipe:
        result = subprocess.run(
            [sys.executable, "-m", "drw.cli.main", *args],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            env={**os.environ, "DRW_DATA_DIR": str(tmp_path)},
            timeout=60,
        )
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


def test_config_hides_secrets(tmp_path: Path) -> None:
    paths = PlatformPaths.of(tmp_path)
    paths.prepare()
    paths.write_profile("127.0.0.1:8080")
    paths.create_secrets()
    secret = SettingLayers(paths.files, {}).profile().services["authentication"]["secret"]
    for options in ([], ["--json"]):
        output = drw("config", *options, "--data-dir", str(tmp_path)).stdout
        assert "services.authentication.secret" in output and "(set, not shown)" in output
        assert secret not in output
    assert ", required)\n" in drw("config", "name", "--data-dir", str(tmp_path)).stdout
    settings = json.loads(
        drw("config", "--json", "--data-dir", str(tmp_path), DRW__AUTHENTICATION__SECRET=token_urlsafe(48)).stdout
    )
    (setting,) = [setting for setting in settings if setting["name"] == "services.authentication.secret"]
    assert (setting["value"], setting["default"]) == ("(set, not shown)", "")
    assert setting["origin"] == "$DRW__AUTHENTICATION__SECRET"


@pytest.mark.parametrize("is_new", [True, False])
def test_first_key_is_shown_only_by_the_start_that_created_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    monkeypatch.delenv("DRW_API_KEY", raising=False)
    (tmp_path / "credentials.json").write_text('{"url": "http://127.0.0.1:1", "api_key": "a.b.c"}')
    status = {"processes": [], "services": [], "gateway": "http://127.0.0.1:1", "healthy": True, "new_key": is_new}
    _print_welcome(PlatformPaths.of(tmp_path), status)
    output = capsys.readouterr().out
    assert ("a.b.c" in output) is is_new
    assert "http://127.0.0.1:1" in output


@pytest.mark.parametrize("command", [["models"], ["env"], ["keys", "list"], ["chat", "hello"]])
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"DRW_URL": "http://127.0.0.1:9"}, "DRW_URL is set and DRW_API_KEY is not"),
        ({"DRW_API_KEY": "k"}, "DRW_API_KEY is set and DRW_URL is not"),
        ({"DRW_URL": "http://127.0.0.1:9", "DRW_API_KEY": ""}, "DRW_URL is set and DRW_API_KEY is not"),
        ({"DRW_URL": "127.0.0.1:9", "DRW_API_KEY": "k"}, "DRW_URL '127.0.0.1:9' is not an address"),
        ({"DRW_URL": "http://me:hidden@127.0.0.1:9", "DRW_API_KEY": "k"}, "DRW_URL is not an address"),
        ({"DRW_URL": "http://127.0.0.1:9", "DRW_API_KEY": "hidden k"}, "DRW_API_KEY has characters that no key has"),
        ({"DRW_URL": "http://127.0.0.1:9", "DRW_API_KEY": "k", "DRW_DATA_DIR": "/x"}, "unset DRW_URL and DRW_API_KEY"),
    ],
)
def test_incomplete_remote_settings_are_an_error(command: list[str], env: dict[str, str], message: str) -> None:
    result = drw(*command, **env)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert "hidden" not in result.stderr


@pytest.mark.parametrize("command", [["up"], ["down"], ["status"], ["logs", "gateway"], ["config"]])
def test_local_commands_reject_remote_settings(command: list[str], tmp_path: Path) -> None:
    result = drw(*command, DRW_URL="http://127.0.0.1:9", DRW_API_KEY="k")
    assert result.returncode == 2
    assert "DRW_URL and DRW_API_KEY are set, and this command is for a platform on this machine" in result.stderr
    assert drw("down", "--data-dir", str(tmp_path), DRW_URL="http://127.0.0.1:9").returncode == 0


def test_damaged_credentials_file_is_an_error(tmp_path: Path) -> None:
    for content in ("", "{}", "[]", "{"):
        (tmp_path / "credentials.json").write_text(content)
        result = drw("models", "--data-dir", str(tmp_path))
        assert result.returncode == 2
        assert f"{tmp_path}/credentials.json is damaged" in result.stderr


def test_os_errors_show_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = drw("up", "--data-dir", str(tmp_path / "file" / "data"))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("drw: ") and "Not a directory" in result.stderr


def test_version_is_printed() -> None:
    assert drw("--version").stdout == f"drw {version('drw')}\n"


def test_module_table_lists_every_command() -> None:
    for module, (_, commands) in MODULES.items():
        app = typer.Typer()
        import_module(f"drw.cli.{module}").add_to(app, "")
        names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
        assert {*names, *(group.name for group in app.registered_groups)} == set(commands.split())


def test_every_command_and_parameter_has_help() -> None:
    def commands(command: TyperCommand | TyperGroup, name: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
        yield name, command
        for child, subcommand in getattr(command, "commands", {}).items():
            if not subcommand.hidden:
                yield from commands(subcommand, f"{name} {child}")

    root = typer.main.get_command(make_app())
    assert isinstance(root, TyperGroup)
    for name, command in commands(root, "drw"):
        assert command.help and command.help.rstrip().endswith("."), name
        for parameter in command.params:
            assert getattr(parameter, "hidden", False) or getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_details_are_abbreviated_at_whole_members() -> None:
    assert _abbreviated({}) == "{}"
    assert _abbreviated({"tokens": 3, "ok": True}) == '{"tokens": 3, "ok": true}'
    abbreviated = _abbreviated({"first": 1, "second": "x" * 200, "third": 2})
    assert abbreviated == '{"first": 1, …}'


def test_status_without_a_platform_is_unhealthy(tmp_path: Path) -> None:
    assert drw("status", "--data-dir", str(tmp_path)).returncode == 1
    result = drw("status", "--json", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert json.loads(result.stdout)["healthy"] is False
    assert "no platform runs" in drw("down", "--data-dir", str(tmp_path)).stdout


def test_unreachable_gateway_is_an_error(tmp_path: Path) -> None:
    result = drw("models", DRW_URL="http://127.0.0.1:9", DRW_API_KEY="x")
    assert result.returncode == 5
    assert "nothing answers at http://127.0.0.1:9" in result.stderr


def test_command_reference_has_a_section_for_a_callable_group() -> None:
    sections = [line for line in commands_page(make_app()).splitlines() if line.startswith("## ")]
    assert "## `drw kill`" in sections
    assert "## `drw runs`" not in sections


def test_the_output_of_a_run_is_json_unless_it_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    _show_output([{"truncated": False}])
    assert json.loads(capsys.readouterr().out) == [{"truncated": False}]
    _show_output({"files": ["a"], "text": "one\ntwo"})
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("[") : printed.index("]") + 1]) == ["a"]
    assert printed.endswith("text:\none\ntwo\n")
