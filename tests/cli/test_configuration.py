"""Validation of settings before a start, and the list of settings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from cli.test_commands import drw
from drw.kernel.runtime.settings import SettingLayers
from drw.local.configuration import current_settings, errors, known_settings
from drw.local.paths import PlatformPaths
from support.json_types import JsonObject

INVALID_SETTINGS = """\
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
def paths(tmp_path: Path) -> PlatformPaths:
    created = PlatformPaths.of(tmp_path)
    created.prepare()
    created.create_secrets()
    return created


def setting_errors(paths: PlatformPaths, text: str, **environ: str) -> list[str]:
    paths.settings.write_text(text)
    files = [paths.secrets, paths.settings]
    return errors(SettingLayers(files, environ, base=("profile", paths.profile_values("127.0.0.1:1"))))


def test_default_settings_have_no_error(paths: PlatformPaths) -> None:
    assert setting_errors(paths, "") == []


def test_every_error_has_its_line(paths: PlatformPaths) -> None:
    found_errors = setting_errors(paths, INVALID_SETTINGS)
    messages = {error.split(": ")[0].rpartition(":")[2]: error.partition(": ")[2] for error in found_errors}
    assert all(error.startswith(f"{paths.settings}:") for error in found_errors)
    assert {line: text for line, text in messages.items() if line not in ("3", "10")} == {
        "2": "engine.memory_mib is 100: input should be greater than or equal to 512",
        "5": "serving is not a setting; did you mean 'services.serving'?",
        "8": "services.serving.max_waitng is not a setting; did you mean 'max_waiting'?",
        "9": "services.serving.max_waiting is 'lots': input should be a valid integer, unable to parse string as an "
        "integer",
        "13": "services.discovery.models.gpt-4.1.engine is 'opnai': input should be 'llama_cpp', 'openai', 'vertex' "
        "or 'onnx'",
        "14": "services.discovery.models.gpt-4.1.fallback is not a setting; did you mean 'fallbacks'?",
        "17": "services.discovery.models.two.engine is missing",
        "20": "services.health.a is not a setting; there are: history, poll_seconds, probes",
        "21": "services.request_router.kill_limits: kill_limits: the reserve is 5000; it must be below the total, 2000",
    }
    assert messages["3"].startswith("speed is not a setting; there are: bus, data, ")
    assert messages["10"].startswith("services.nothing is not a setting; there are: authentication, ")


def test_inconsistent_settings_are_errors(paths: PlatformPaths) -> None:
    model = '[services.discovery.models.big]\nengine = "openai"\nbase_url = "https://x/v1"\n'
    (error,) = setting_errors(paths, f'{model}fallbacks = ["gone"]')
    assert "models.big.fallbacks has 'gone'" in error
    (error,) = setting_errors(paths, f"{model}sampling.repeat_penalty = 1.2")
    assert error.startswith(f"{paths.settings}:1: ") and "repeat_penalty needs engine = 'llama_cpp'" in error
    (error,) = setting_errors(paths, f"{model}sampling.temperature = 3")
    assert error.startswith(f"{paths.settings}:4: ") and "less than or equal to 2" in error


def test_error_of_a_variable_names_it_and_hides_secrets(paths: PlatformPaths) -> None:
    (error,) = setting_errors(paths, "", DRW__LOG__GATHER_SECONDS="900")
    assert error.startswith("$DRW__LOG__GATHER_SECONDS: services.log.gather_seconds is '900': ")
    (error,) = setting_errors(paths, '[services.authentication]\nsecret = "hunter2"')
    assert error.startswith(f"{paths.settings}:2: services.authentication.secret") and "hunter2" not in error
    (error,) = setting_errors(paths, '[services.serving.openai]\ncache_salt_key = ["hunter2"]')
    assert "hunter2" not in error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[services.embedding]\nencoder = "onxx"', "2: services.embedding.encoder is 'onxx': input should be 'onnx'"),
        ('\n[services.vector_store]\nindex = "x"', "3: services.vector_store.index is 'x': input should be 'pgvector'"),
        ('data_plane.listen = "127.0.0.1:99999"', "1: data_plane.listen: '127.0.0.1:99999' is not an address"),
        ('data_plane.listen = "8080"', "1: data_plane.listen: '8080' is not an address"),
    ],
)
def test_errors_of_a_start_are_found_beforehand(paths: PlatformPaths, text: str, expected: str) -> None:
    (error,) = setting_errors(paths, text)
    assert error.startswith(f"{paths.settings}:{expected}")


def test_error_line_is_found_after_comments_and_multiline_values(paths: PlatformPaths) -> None:
    text = "# one\n\n[services.serving]\n# two\nmax_waiting = [\n  1,\n]\n\n# three\ntotal_seconds = 'x'\nnone = 1\n"
    lines = [error.split(":")[1] for error in setting_errors(paths, text)]
    assert sorted(lines, key=int) == ["5", "10", "11"]


def test_error_line_is_found_with_few_parses(paths: PlatformPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    models = range(200)
    text = "".join(
        f'[services.discovery.models.m{n}]\nengine = "openai"\nbase_url = "http://x"\nno = 1\n' for n in models
    )
    steps: list[int] = []
    loads = tomllib.loads

    def counting_loads(document: str) -> JsonObject:
        steps.append(1)
        return loads(document)

    monkeypatch.setattr("drw.local.configuration.tomllib.loads", counting_loads)
    found_errors = setting_errors(paths, text)
    assert {int(error.split(":")[1]) for error in found_errors} == {4 * n + 4 for n in models}
    assert len(steps) < 20 * len(found_errors)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('postgres = "postgresql://me:hunter2@h/db"', "postgresql://(set, not shown)@h/db"),
        ("postgres = \"host=h password = 'hun ter2' user=me\"", "host=h password = (set, not shown) user=me"),
        ('postgres = "password=hunter2 host=h"', "password=(set, not shown) host=h"),
        ('postgres = "postgresql://h/db?password=hunter2&x=1"', "postgresql://h/db?password=(set, not shown)&x=1"),
        ('valkey = "redis://:hunter2@h"', "redis://(set, not shown)@h"),
        ('otlp_endpoint = "http://h:4318"', "http://h:4318"),
    ],
)
def test_passwords_in_connection_strings_are_hidden(paths: PlatformPaths, text: str, redacted: str) -> None:
    paths.write_profile("127.0.0.1:1")
    paths.settings.write_text(text)
    name = text.split(" ")[0]
    output = drw("config", name, "--json", "--data-dir", str(paths.data)).stdout
    assert [s["value"] for s in json.loads(output) if s["name"] == name] == [redacted]
    (error,) = setting_errors(paths, text.replace(name, "engine.memory_mib"))
    assert "ter2" not in error


def test_platform_with_invalid_settings_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "drw.toml").write_text("[services.serving]\nmax_waitng = 3\n")
    for command in (["up", "--detach"], ["up"]):
        result = drw(*command, "--port", "0", "--data-dir", str(tmp_path))
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == (
            f"drw: {tmp_path}/drw.toml:2: services.serving.max_waitng is not a setting; did you mean 'max_waiting'?\n"
        )
    assert not (tmp_path / "profile.toml").exists()
    assert list((tmp_path / "logs").iterdir()) == []
    PlatformPaths.of(tmp_path).write_profile("127.0.0.1:1")
    assert drw("config", "--data-dir", str(tmp_path)).stderr == result.stderr


def test_invalid_toml_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "drw.toml").write_text("\na = \n")
    result = drw("up", "--data-dir", str(tmp_path))
    assert result.returncode == 2
    assert f"{str(tmp_path / 'drw.toml')!r} is not TOML" in result.stderr and "line 2" in result.stderr


def test_every_setting_has_a_description() -> None:
    assert [".".join(path) for path, _, description in known_settings() if not description] == []


def test_settings_are_listed_with_value_default_origin_and_description(paths: PlatformPaths) -> None:
    paths.settings.write_text("[services.serving]\nmax_waiting = 5\n")
    paths.write_profile("127.0.0.1:1")
    settings = {s.name: s for s in current_settings(SettingLayers(paths.files, {}))}
    waiting = settings["services.serving.max_waiting"]
    assert (waiting.value, waiting.default, waiting.origin) == (5, 64, str(paths.settings))
    assert waiting.description.startswith("Maximum requests that wait for one model")
    assert settings["services.serving.total_seconds"].origin == "default"
    assert settings["services.discovery.models.smollm2-135m-instruct.sampling.repeat_penalty"].value == 1.1
    assert not any("*" in name for name in settings)
    output = drw("config", "max_waiting", "--json", "--data-dir", str(paths.data)).stdout
    names = [waiting.name, "services.serving.max_waiting_seconds", "services.embedding.max_waiting_texts"]
    names.append("services.serving.runtime.max_waiting")
    assert sorted(s["name"] for s in json.loads(output)) == sorted(names)
    assert drw("config", "no_such_thing", "--data-dir", str(paths.data)).returncode == 3
