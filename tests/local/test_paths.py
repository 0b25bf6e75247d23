"""Platform folders, the generated profile, and the checks before a start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drw.catalog import SERVICES, SUPPORT
from drw.gateway.authentication.keys.secret import weakness
from drw.kernel.errors import Conflict, Forbidden, Unavailable
from drw.kernel.runtime.host import check_sections
from drw.kernel.runtime.settings import ConfigError, SettingLayers
from drw.local import postgres, preflight
from drw.local.paths import PlatformPaths, toml
from drw.local.preflight import check_port, check_space, locked


@pytest.fixture
def paths(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> PlatformPaths:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    paths = PlatformPaths.of(tmp_path / "data")
    paths.prepare()
    paths.write_profile("127.0.0.1:8080")
    return paths


def test_profile_has_an_address_for_every_service(paths: PlatformPaths) -> None:
    profile = SettingLayers(paths.files, {}).profile()
    assert {profile.address_of(s.name).grpc for s in SERVICES + SUPPORT}
    check_sections(profile)
    assert len(str(paths.run / "pg" / ".s.PGSQL.5432.lock")) < 108


def test_operator_settings_take_precedence_and_are_the_origin(paths: PlatformPaths) -> None:
    paths.settings.write_text('otlp_endpoint = "http://127.0.0.1:4318"')
    layers = SettingLayers(paths.files, {"DRW__RATE_LIMITING__X": "1"})
    assert layers.profile().otlp_endpoint == "http://127.0.0.1:4318"
    assert layers.origins["otlp_endpoint"] == str(paths.settings)
    assert layers.origins["services.rate_limiting.x"] == "$DRW__RATE_LIMITING__X"


def test_secrets_are_created_once_and_readable_only_by_the_user(paths: PlatformPaths) -> None:
    assert paths.secrets not in paths.files
    paths.create_secrets()
    content = paths.secrets.read_bytes()
    assert paths.secrets.stat().st_mode & 0o777 == 0o600
    paths.create_secrets()
    assert paths.secrets.read_bytes() == content
    secret = SettingLayers(paths.files, {}).profile().services["authentication"]["secret"]
    assert weakness(secret) == ""
    assert secret not in paths.profile.read_text()


def test_unknown_setting_is_an_error_with_its_location(paths: PlatformPaths) -> None:
    paths.settings.write_text("colour = 3")
    with pytest.raises(ConfigError, match=r"colour: .*from .*drw.toml"):
        SettingLayers(paths.files, {}).profile()


def test_second_platform_in_the_same_folder_is_a_conflict(paths: PlatformPaths) -> None:
    with locked(paths), pytest.raises(Conflict, match="drw down"), locked(paths):
        pass


def test_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port} is not free"):
            check_port(f"127.0.0.1:{port}")


def test_full_disk_is_an_error(paths: PlatformPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(paths)
    monkeypatch.setattr(preflight, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(Unavailable, match=f"{paths.data} has .* MB left"):
        check_space(paths)


def test_socket_folder_of_another_user_is_an_error(paths: PlatformPaths, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths.run.rmdir()
    paths.run.symlink_to(elsewhere)
    with pytest.raises(Forbidden, match="somebody else"):
        paths.prepare()


def test_toml_round_trip() -> None:
    import tomllib

    values = {"a": 'x"y\\z', "n": 3, "flag": True, "list": ["a"], "t": {"dotted.key": {"b": 1.5}}}
    assert tomllib.loads(toml(values)) == values


def test_folder_without_a_database_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "mine").write_text("x")
    with pytest.raises(postgres.BrokenCluster, match="move it away"):
        postgres.prepare(tmp_path / "postgres", tmp_path / "s")
    assert (tmp_path / "postgres" / "mine").read_text() == "x"
