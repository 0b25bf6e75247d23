"""Settings: precedence of layers, origins of values, rejected values."""

from __future__ import annotations

from pathlib import Path

import pytest

from drw.kernel.runtime.settings import ConfigError, SettingLayers

BASE = """
name = "laptop"
data = "/data"
postgres = "host=/s"
valkey = "unix:///v"
[services.log]
origin = "drw.local/audit"
gather_seconds = 1
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.toml"
    file.write_text(BASE)
    return file


def layers_with(base: Path, text: str, **environ: str) -> SettingLayers:
    operator_file = base.with_name("own.toml")
    operator_file.write_text(text)
    return SettingLayers([base, operator_file], environ)


def test_later_files_and_the_environment_override_single_values(base: Path) -> None:
    layers = layers_with(
        base, '[services.log]\norigin = "own"', DRW__LOG__GATHER_SECONDS="3", DRW__NAME="ci", OTHER="x"
    )
    profile = layers.profile()
    assert profile.services["log"] == {"origin": "own", "gather_seconds": "3"}
    assert profile.name == "ci"
    assert layers.origins["services.log.origin"] == str(base.with_name("own.toml"))
    assert layers.origins["services.log.gather_seconds"] == "$DRW__LOG__GATHER_SECONDS"
    assert layers.origins["name"] == "$DRW__NAME"
    assert layers.origins["data"] == str(base)


def test_tables_and_values_replace_each_other(base: Path) -> None:
    assert layers_with(base, "[services.log.origin]\na = 1").profile().services["log"]["origin"] == {"a": 1}
    with pytest.raises(ConfigError, match=r"services\.log"):
        layers_with(base, "[services]\nlog = 3").profile()


def test_an_error_names_the_setting_and_its_origin(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"postgres: .* \(from .*own\.toml\)"):
        layers_with(base, "postgres = 3").profile()
    with pytest.raises(ConfigError, match="speed: .*not permitted"):
        layers_with(base, "speed = 3").profile()


def test_a_profile_is_immutable(base: Path) -> None:
    profile = layers_with(base, "").profile()
    with pytest.raises(ValueError, match="frozen"):
        profile.__setattr__("name", "other")


def test_an_unreadable_file_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        SettingLayers([tmp_path / "none.toml"], {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        SettingLayers([tmp_path], {})
    for content in (b"name = ", b"name = '\xff'"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match="is not TOML"):
            SettingLayers([tmp_path / "bad.toml"], {})
