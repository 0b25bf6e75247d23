"""`drw models check`: text and JSON output, exit codes, signature and ML-BOM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drw.model_files.manifest import digest
from model_files.builders import write_gguf, write_onnx, write_safetensors
from model_files.signers import Draft, private_key, public_pem
from support.json_types import JsonObject

KEY = private_key()


def check(*args: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRW_")}
    command = [sys.executable, "-m", "drw.cli.main", "models", "check", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def report(*args: str | Path) -> tuple[int, JsonObject]:
    done = check(*args, "--json")
    return done.returncode, json.loads(done.stdout)


def test_valid_model_is_accepted(tmp_path: Path) -> None:
    done = check(write_onnx(tmp_path / "tiny.onnx"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "accepted" in done.stdout
    assert digest(tmp_path / "tiny.onnx").digest in done.stdout
    assert "x: float [batch, 4]" in done.stdout


def test_refused_model_exits_with_1_and_its_reasons(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    (tmp_path / "modeling.py").write_text("")
    done = check(tmp_path)
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert done.stderr == "drw: modeling.py is refused: files of the type .py may contain code\n"
    code, found = report(tmp_path)
    assert (code, found["accepted"], found["digest"]) == (1, False, None)
    assert found["reasons"] == ["modeling.py is refused: files of the type .py may contain code"]
    assert report(tmp_path, "--exclude", "modeling.py")[0] == 0


def test_signature_inside_the_model_is_verified_and_not_part_of_it(tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path / "model")
    (tmp_path / "key.pem").write_bytes(public_pem(KEY))
    before = digest(folder).digest
    (folder / "model.sig").write_bytes(Draft.of(folder, KEY).data)
    args = (folder, "--signature", folder / "model.sig", "--public-key", tmp_path / "key.pem")
    code, found = report(*args)
    assert (code, found["signature"]["verdict"], found["digest"]) == (0, "valid", before)
    (folder / "config.json").write_text("{}")
    code, found = report(*args)
    assert (code, found["signature"]["verdict"]) == (1, "invalid")
    assert found["reasons"] == ["config.json differs from the signed file"]


def test_bill_of_materials_is_written_for_an_accepted_model_only(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    assert check(file, "--sbom", tmp_path / "bom.json").returncode == 0
    document = json.loads((tmp_path / "bom.json").read_text())
    assert document["metadata"]["component"]["version"] == digest(file).digest
    file.write_bytes(b"GGUF")
    assert check(file, "--sbom", tmp_path / "other.json").returncode == 1
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--signature", "a.sig"], "--signature needs a trusted signer"),
        (["--public-key", "key.pem"], "--public-key and --certificate-root need --signature"),
    ],
)
def test_incomplete_options_are_named(args: list[str], message: str, tmp_path: Path) -> None:
    done = check(write_gguf(tmp_path / "tiny.gguf"), *args)
    assert done.returncode == 2
    assert message in done.stderr


def test_option_before_the_command_is_not_ignored() -> None:
    command = [sys.executable, "-m", "drw.cli.main", "models", "--json", "check", "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "drw: give --json after the command: drw models check ... --json\n")


def test_missing_path_is_named(tmp_path: Path) -> None:
    done = check(tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stderr == f"drw: {tmp_path}/nothing: No such file or directory\n"
