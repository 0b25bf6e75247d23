"""Settings before a start: each fault with its place, and every setting with its description."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli.test_commands import drw
from drw.kernel.runtime.settings import SettingLayers
from drw.local.configuration import current_settings, errors, known_settings
from drw.local.paths import PlatformPaths

FAULTY = """\
# mine
engine.memory_mib = 100
speed = 3

[serving]
max_waiting = 1
[services.serving]
max_waitng = 3
max_waiting = "lots"
[services.nothing]
a = 1
[services.discovery.models."gpt-4.1"]
engine = "opnai"
fallback = [
  "a",
]
[services.discovery.models.two]
base_url = "http://x/v1"
[services.health]
a = 1
[services.request_router.kill_limits]
reserve = 5000
"""


@pytest.fixture
def layout(tmp_path: Path) -> PlatformPaths:
    found = PlatformPaths.of(tmp_path)
    found.prepare()
    found.create_secrets()
    return found


def wrong(layout, text, **environ):
    layout.settings.write_text(text)
    files = [layout.secrets, layout.settings]
    return errors(SettingLayers(files, environ, base=("profile", layout.profile_values("127.0.0.1:1"))))


def test_a_platform_as_it_comes_has_no_fault(layout: Any) -> None:
    assert wrong(layout, "") == []


def test_every_fault_is_named_with_its_line(layout: Any) -> None:
    found = wrong(layout, FAULTY)
    said = {fault.split(": ")[0].rpartition(":")[2]: fault.partition(": ")[2] for fault in found}
    assert all(fault.startswith(f"{layout.settings}:") for fault in found)
    assert {line: text for line, text in said.items() if line not in ("3", "10")} == {
        "2": "engine.memory_mib is 100: input should be greater than or equal to 512",
        "5": "serving is not a setting; did you mean 'services.serving'?",
        "8": "services.serving.max_waitng is not a setting; did you mean 'max_waiting'?",
        "9": "services.serving.max_waiting is 'lots': input should be a valid integer, unable to parse string as an "
        "integer",
        "13": "services.discovery.models.gpt-4.1.engine is 'opnai': input should be 'llama_cpp', 'openai', 'vertex' "
        "or 'onnx'",
        "14": "services.discovery.models.gpt-4.1.fallback is not a setting; did you mean 'fallbacks'?",
        "17": "services.discovery.models.two.engine is missing",
        "20": "services.health.a is not a setting; there are: none",
        "21": "services.request_router.kill_limits: kill_limits: the reserve is 5000; it must be below the total, 2000",
    }
    assert said["3"].startswith("speed is not a setting; there are: data, ")
    assert said["10"].startswith("services.nothing is not a setting; there are: authentication, ")


def test_settings_that_do_not_fit_together_are_faults(layout: Any) -> None:
    model = '[services.discovery.models.big]\nengine = "openai"\nbase_url = "https://x/v1"\n'
    (found,) = wrong(layout, f'{model}fallbacks = ["gone"]')
    assert "models.big.fallbacks has 'gone'" in found
    (found,) = wrong(layout, f"{model}sampling.repeat_penalty = 1.2")
    assert found.startswith(f"{layout.settings}:1: ") and "repeat_penalty needs engine = 'llama_cpp'" in found
    (found,) = wrong(layout, f"{model}sampling.temperature = 3")
    assert found.startswith(f"{layout.settings}:4: ") and "less than or equal to 2" in found


def test_a_fault_of_a_variable_names_it_and_a_secret_is_never_shown(layout: Any) -> None:
    (found,) = wrong(layout, "", DRW__LOG__GATHER_SECONDS="900")
    assert found.startswith("$DRW__LOG__GATHER_SECONDS: services.log.gather_seconds is '900': ")
    (found,) = wrong(layout, '[services.authentication]\nsecret = "hunter2"')
    assert found.startswith(f"{layout.settings}:2: services.authentication.secret") and "hunter2" not in found
    (found,) = wrong(layout, '[services.serving.openai]\ncache_salt_key = ["hunter2"]')
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[services.embedding]\nencoder = "onxx"', "2: services.embedding.encoder is 'onxx': input should be 'onnx'"),
        ('\n[services.vector_store]\nindex = "x"', "3: services.vector_store.index is 'x': input should be 'pgvector'"),
        ('data_plane.listen = "127.0.0.1:99999"', "1: data_plane.listen: '127.0.0.1:99999' is not an address"),
        ('data_plane.listen = "8080"', "1: data_plane.listen: '8080' is not an address"),
    ],
)
def test_what_would_end_a_start_halfway_is_a_fault(layout: PlatformPaths, text: str, fault: str) -> None:
    (found,) = wrong(layout, text)
    assert found.startswith(f"{layout.settings}:{fault}")


def test_a_line_is_found_behind_comments_and_values_of_several_lines(layout: PlatformPaths) -> None:
    text = "# one\n\n[services.serving]\n# two\nmax_waiting = [\n  1,\n]\n\n# three\ntotal_seconds = 'x'\nnone = 1\n"
    lines = [fault.split(":")[1] for fault in wrong(layout, text)]
    assert sorted(lines, key=int) == ["5", "10", "11"]


def test_the_line_of_a_mistake_is_found_in_few_steps(layout: PlatformPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    models = range(200)
    text = "".join(
        f'[services.discovery.models.m{n}]\nengine = "openai"\nbase_url = "http://x"\nno = 1\n' for n in models
    )
    steps: list[int] = []
    loads = tomllib.loads

    def counted(given: str) -> Any:
        steps.append(1)
        return loads(given)

    monkeypatch.setattr("drw.local.configuration.tomllib.loads", counted)
    found = wrong(layout, text)
    assert {int(fault.split(":")[1]) for fault in found} == {4 * n + 4 for n in models}
    assert len(steps) < 20 * len(found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('postgres = "postgresql://me:hunter2@h/db"', "postgresql://(set, not shown)@h/db"),
        ("postgres = \"host=h password = 'hun ter2' user=me\"", "host=h password = (set, not shown) user=me"),
        ('postgres = "password=hunter2 host=h"', "password=(set, not shown) host=h"),
        ('postgres = "postgresql://h/db?password=hunter2&x=1"', "postgresql://h/db?password=(set, not shown)&x=1"),
        ('valkey = "redis://:hunter2@h"', "redis://(set, not shown)@h"),
        ('otlp_endpoint = "http://h:4318"', "http://h:4318"),
    ],
)
def test_no_password_in_a_connection_string_is_shown(layout: PlatformPaths, text: str, shown: str) -> None:
    layout.write_profile("127.0.0.1:1")
    layout.settings.write_text(text)
    name = text.split(" ")[0]
    said = drw("config", name, "--json", "--data-dir", str(layout.data)).stdout
    assert [s["value"] for s in json.loads(said) if s["name"] == name] == [shown]
    (fault,) = wrong(layout, text.replace(name, "engine.memory_mib"))
    assert "ter2" not in fault


def test_a_platform_with_a_fault_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "drw.toml").write_text("[services.serving]\nmax_waitng = 3\n")
    for how in (["up", "--detach"], ["up"]):
        done = drw(*how, "--port", "0", "--data-dir", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"drw: {tmp_path}/drw.toml:2: services.serving.max_waitng is not a setting; did you mean 'max_waiting'?\n"
        )
    assert not (tmp_path / "profile.toml").exists()
    assert list((tmp_path / "logs").iterdir()) == []
    PlatformPaths.of(tmp_path).write_profile("127.0.0.1:1")
    assert drw("config", "--data-dir", str(tmp_path)).stderr == done.stderr


def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "drw.toml").write_text("\na = \n")
    done = drw("up", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert f"{str(tmp_path / 'drw.toml')!r} is not TOML" in done.stderr and "line 2" in done.stderr


def test_every_setting_has_a_description() -> None:
    assert [".".join(path) for path, _, description in known_settings() if not description] == []


def test_settings_are_listed_with_default_value_origin_and_description(layout: Any) -> None:
    layout.settings.write_text("[services.serving]\nmax_waiting = 5\n")
    layout.write_profile("127.0.0.1:1")
    found = {s.name: s for s in current_settings(SettingLayers(layout.files, {}))}
    waiting = found["services.serving.max_waiting"]
    assert (waiting.value, waiting.default, waiting.origin) == (5, 64, str(layout.settings))
    assert waiting.description.startswith("Requests that may wait for one model")
    assert found["services.serving.total_seconds"].origin == "default"
    assert found["services.discovery.models.smollm2-135m-instruct.sampling.repeat_penalty"].value == 1.1
    assert not any("*" in name for name in found)
    said = drw("config", "max_waiting", "--json", "--data-dir", str(layout.data)).stdout
    names = [waiting.name, "services.serving.max_waiting_seconds", "services.embedding.max_waiting_texts"]
    assert sorted(s["name"] for s in json.loads(said)) == sorted(names)
    assert drw("config", "no_such_thing", "--data-dir", str(layout.data)).returncode == 3
