"""Folders, the profile that is written, and what keeps two platforms apart."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drw.catalog import SERVICES, SUPPORT
from drw.gateway.authentication.keys.secret import why_weak
from drw.kernel.errors import Conflict, Forbidden, Unavailable
from drw.kernel.runtime.host import check_sections
from drw.kernel.runtime.settings import ConfigError, SettingLayers
from drw.local import postgres, preflight
from drw.local.paths import PlatformPaths, toml
from drw.local.preflight import check_port, check_space, locked


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlatformPaths:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    layout = PlatformPaths.of(tmp_path / "data")
    layout.prepare()
    layout.write_profile("127.0.0.1:8080")
    return layout


def test_the_profile_places_every_service(layout: PlatformPaths) -> None:
    profile = SettingLayers(layout.files, {}).profile()
    assert {profile.place(s.name).grpc for s in SERVICES + SUPPORT}
    check_sections(profile)
    assert len(str(layout.run / "pg" / ".s.PGSQL.5432.lock")) < 108


def test_the_operators_file_wins_and_is_named_as_the_origin(layout: PlatformPaths) -> None:
    layout.settings.write_text('otlp_endpoint = "http://127.0.0.1:4318"')
    layers = SettingLayers(layout.files, {"DRW__RATE_LIMITING__X": "1"})
    assert layers.profile().otlp_endpoint == "http://127.0.0.1:4318"
    assert layers.origins["otlp_endpoint"] == str(layout.settings)
    assert layers.origins["services.rate_limiting.x"] == "$DRW__RATE_LIMITING__X"


def test_secrets_are_made_once_and_for_this_user_alone(layout: PlatformPaths) -> None:
    assert layout.secrets not in layout.files
    layout.create_secrets()
    made = layout.secrets.read_bytes()
    assert layout.secrets.stat().st_mode & 0o777 == 0o600
    layout.create_secrets()
    assert layout.secrets.read_bytes() == made
    secret = SettingLayers(layout.files, {}).profile().services["authentication"]["secret"]
    assert why_weak(secret) == ""
    assert secret not in layout.profile.read_text()


def test_an_unknown_setting_is_refused_with_its_place(layout: PlatformPaths) -> None:
    layout.settings.write_text("colour = 3")
    with pytest.raises(ConfigError, match=r"colour: .*from .*drw.toml"):
        SettingLayers(layout.files, {}).profile()


def test_a_second_platform_in_the_same_folder_is_refused(layout: PlatformPaths) -> None:
    with locked(layout), pytest.raises(Conflict, match="drw down"), locked(layout):
        pass


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port} is not free"):
            check_port(f"127.0.0.1:{port}")


def test_a_full_disk_is_named(layout: PlatformPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(layout)
    monkeypatch.setattr(preflight, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(Unavailable, match=f"{layout.data} has .* MB left"):
        check_space(layout)


def test_a_socket_folder_of_somebody_else_is_refused(layout: PlatformPaths, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    layout.run.rmdir()
    layout.run.symlink_to(elsewhere)
    with pytest.raises(Forbidden, match="somebody else"):
        layout.prepare()


def test_toml_is_read_back_as_it_was() -> None:
    import tomllib

    values = {"a": 'x"y\\z', "n": 3, "flag": True, "list": ["a"], "t": {"dotted.key": {"b": 1.5}}}
    assert tomllib.loads(toml(values)) == values


def test_a_folder_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "mine").write_text("x")
    with pytest.raises(postgres.BrokenCluster, match="move it away"):
        postgres.prepare(tmp_path / "postgres", tmp_path / "s")
    assert (tmp_path / "postgres" / "mine").read_text() == "x"
