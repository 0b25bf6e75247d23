"""The command as a program: exit codes, and errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from drw.cli.main import make_app
from drw.cli.platform import _welcome
from drw.cli.reference import reference
from drw.kernel.settings import Layers
from drw.local.layout import Layout


def drw(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("DRW_")}
    command = [sys.executable, "-m", "drw.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**known, **env}, timeout=60)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["keys", "list"], 3, "start one with `drw up`"),
        (["logs", "nothing"], 2, "there is no service or part 'nothing'; there are: authentication"),
        (["keys", "create"], 2, "needs at least one scope"),
        (["aliases", "set", "fast"], 2, "needs a target"),
        (["aliases", "set", "fast", "-t", "big=lots"], 2, "'big=lots' is not a target"),
        (["ingest", "/nothing"], 2, "there is no file or folder '/nothing'"),
        (["whoami"], 3, "start one with `drw up`"),
        (["orgs", "list"], 3, "start one with `drw up`"),
        (
            ["issuers", "put", "x", "--issuer", "i", "--org", "o", "--audience", "a", "--role", "x"],
            *(2, "--role is 'x'; write it as in trader=models:invoke,models:read"),
        ),
        (["config"], 3, "start one with `drw up`"),
        (["env"], 3, "start one with `drw up`"),
    ],
)
def test_errors_say_what_to_do(tmp_path, args, code, says):
    done = drw(*args, DRW_DATA_DIR=str(tmp_path))
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("drw: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_settings_are_shown_and_secrets_are_not(tmp_path):
    layout = Layout.of(tmp_path)
    layout.prepare()
    layout.write_profile("127.0.0.1:8080")
    layout.make_secrets()
    secret = Layers(layout.files, {}).profile().services["authentication"]["secret"]
    for form in ([], ["--json"]):
        said = drw("config", *form, "--data-dir", str(tmp_path)).stdout
        assert "services.authentication.secret" in said and "(set, not shown)" in said
        assert secret not in said
    found = json.loads(
        drw("config", "--json", "--data-dir", str(tmp_path), DRW__AUTHENTICATION__SECRET="x" * 40).stdout
    )
    (row,) = [row for row in found if row["name"] == "services.authentication.secret"]
    assert row == {"name": row["name"], "value": "(set, not shown)", "origin": "$DRW__AUTHENTICATION__SECRET"}


@pytest.mark.parametrize("new", [True, False])
def test_the_first_key_is_shown_by_the_start_that_made_it(tmp_path, capsys, monkeypatch, new):
    monkeypatch.delenv("DRW_API_KEY", raising=False)
    (tmp_path / "credentials.json").write_text('{"url": "http://127.0.0.1:1", "api_key": "a.b.c"}')
    found = {"parts": [], "services": [], "gateway": "http://127.0.0.1:1", "healthy": True, "new_key": new}
    _welcome(Layout.of(tmp_path), found)
    said = capsys.readouterr().out
    assert ("a.b.c" in said) is new
    assert "http://127.0.0.1:1" in said


def test_nothing_runs(tmp_path):
    assert drw("status", "--data-dir", str(tmp_path)).returncode == 1
    found = drw("status", "--json", "--data-dir", str(tmp_path))
    assert found.returncode == 1
    assert json.loads(found.stdout)["healthy"] is False
    assert "no platform runs" in drw("down", "--data-dir", str(tmp_path)).stdout


def test_a_gateway_that_does_not_answer(tmp_path):
    done = drw("models", DRW_URL="http://127.0.0.1:9", DRW_API_KEY="x")
    assert done.returncode == 5
    assert "nothing answers at http://127.0.0.1:9" in done.stderr


def test_the_reference_has_a_group_that_does_something_by_itself():
    sections = [line for line in reference(make_app()).splitlines() if line.startswith("## ")]
    assert "## `drw kill`" in sections
    assert "## `drw runs`" not in sections
