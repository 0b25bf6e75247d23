"""The command as a program: exit codes, and errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import pytest
import typer

from drw.cli.audit import _short
from drw.cli.main import MODULES, make_app
from drw.cli.platform.platform import _welcome
from drw.cli.reference import reference
from drw.cli.workflow.workflows import _show_output
from drw.kernel.runtime.settings import SettingLayers
from drw.local.paths import PlatformPaths


def drw(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("DRW_")}
    command = [sys.executable, "-m", "drw.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**known, **env}, timeout=60)


@pytest.mark.parametrize(
    ("args", "code", "says"),
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
def test_errors_say_what_to_do(tmp_path: Path, args: Any, code: Any, says: Any) -> None:
    done = drw(*args, DRW_DATA_DIR=str(tmp_path))
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("drw: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_settings_are_shown_and_secrets_are_not(tmp_path: Path) -> None:
    layout = PlatformPaths.of(tmp_path)
    layout.prepare()
    layout.write_profile("127.0.0.1:8080")
    layout.make_secrets()
    secret = SettingLayers(layout.files, {}).profile().services["authentication"]["secret"]
    for form in ([], ["--json"]):
        said = drw("config", *form, "--data-dir", str(tmp_path)).stdout
        assert "services.authentication.secret" in said and "(set, not shown)" in said
        assert secret not in said
    assert ", required)\n" in drw("config", "name", "--data-dir", str(tmp_path)).stdout
    found = json.loads(
        drw("config", "--json", "--data-dir", str(tmp_path), DRW__AUTHENTICATION__SECRET=token_urlsafe(48)).stdout
    )
    (row,) = [row for row in found if row["name"] == "services.authentication.secret"]
    assert (row["value"], row["default"]) == ("(set, not shown)", "")
    assert row["origin"] == "$DRW__AUTHENTICATION__SECRET"


@pytest.mark.parametrize("new", [True, False])
def test_the_first_key_is_shown_by_the_start_that_made_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    monkeypatch.delenv("DRW_API_KEY", raising=False)
    (tmp_path / "credentials.json").write_text('{"url": "http://127.0.0.1:1", "api_key": "a.b.c"}')
    found = {"processes": [], "services": [], "gateway": "http://127.0.0.1:1", "healthy": True, "new_key": new}
    _welcome(PlatformPaths.of(tmp_path), found)
    said = capsys.readouterr().out
    assert ("a.b.c" in said) is new
    assert "http://127.0.0.1:1" in said


@pytest.mark.parametrize("command", [["models"], ["env"], ["keys", "list"], ["chat", "hello"]])
@pytest.mark.parametrize(
    ("given", "says"),
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
def test_half_a_platform_elsewhere_is_never_the_one_on_this_machine(command: Any, given: Any, says: str) -> None:
    done = drw(*command, **given)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and done.stderr.count("\n") == 1
    assert "hidden" not in done.stderr


@pytest.mark.parametrize("command", [["up"], ["down"], ["status"], ["logs", "gateway"], ["config"]])
def test_commands_for_this_machine_are_not_given_a_platform_elsewhere(command: Any, tmp_path: Path) -> None:
    done = drw(*command, DRW_URL="http://127.0.0.1:9", DRW_API_KEY="k")
    assert done.returncode == 2
    assert "DRW_URL and DRW_API_KEY are set, and this command is for a platform on this machine" in done.stderr
    assert drw("down", "--data-dir", str(tmp_path), DRW_URL="http://127.0.0.1:9").returncode == 0


def test_a_damaged_file_of_credentials_is_named(tmp_path: Path) -> None:
    for damaged in ("", "{}", "[]", "{"):
        (tmp_path / "credentials.json").write_text(damaged)
        done = drw("models", "--data-dir", str(tmp_path))
        assert done.returncode == 2
        assert f"{tmp_path}/credentials.json is damaged" in done.stderr


def test_no_error_is_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = drw("up", "--data-dir", str(tmp_path / "file" / "data"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("drw: ") and "Not a directory" in done.stderr


def test_the_version() -> None:
    assert drw("--version").stdout == f"drw {version('drw')}\n"


def test_a_command_is_found_in_the_module_of_the_table() -> None:
    for module, (_, commands) in MODULES.items():
        app = typer.Typer()
        import_module(f"drw.cli.{module}").add_to(app, "")
        named = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
        assert {*named, *(group.name for group in app.registered_groups)} == set(commands.split())


def test_the_help_of_every_command_says_what_it_and_its_parameters_do() -> None:
    def commands(command, name):
        yield name, command
        for child, found in getattr(command, "commands", {}).items():
            if not found.hidden:
                yield from commands(found, f"{name} {child}")

    for name, command in commands(typer.main.get_command(make_app()), "drw"):
        assert command.help and command.help.rstrip().endswith("."), name
        for parameter in command.params:
            assert getattr(parameter, "hidden", False) or getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_a_table_shows_whole_members_of_the_details_and_integers_as_such() -> None:
    assert _short({}) == "{}"
    assert _short({"tokens": 3, "ok": True}) == '{"tokens": 3, "ok": true}'
    shown = _short({"first": 1, "second": "x" * 200, "third": 2})
    assert shown == '{"first": 1, …}'


def test_nothing_runs(tmp_path: Path) -> None:
    assert drw("status", "--data-dir", str(tmp_path)).returncode == 1
    found = drw("status", "--json", "--data-dir", str(tmp_path))
    assert found.returncode == 1
    assert json.loads(found.stdout)["healthy"] is False
    assert "no platform runs" in drw("down", "--data-dir", str(tmp_path)).stdout


def test_a_gateway_that_does_not_answer(tmp_path: Path) -> None:
    done = drw("models", DRW_URL="http://127.0.0.1:9", DRW_API_KEY="x")
    assert done.returncode == 5
    assert "nothing answers at http://127.0.0.1:9" in done.stderr


def test_the_reference_has_a_group_that_does_something_by_itself() -> None:
    sections = [line for line in reference(make_app()).splitlines() if line.startswith("## ")]
    assert "## `drw kill`" in sections
    assert "## `drw runs`" not in sections


def test_the_output_of_a_run_is_json_unless_it_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    _show_output([{"truncated": False}])
    assert json.loads(capsys.readouterr().out) == [{"truncated": False}]
    _show_output({"files": ["a"], "text": "one\ntwo"})
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("[") : printed.index("]") + 1]) == ["a"]
    assert printed.endswith("text:\none\ntwo\n")
