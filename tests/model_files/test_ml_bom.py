"""CycloneDX ML-BOM: valid by the schema of the specification, readable by its library."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from drw.model_files.inspection import inspect
from drw.model_files.sbom import ml_bom
from model_files.builders import write_gguf, write_onnx, write_safetensors

AT = datetime(2026, 6, 1, tzinfo=UTC)


def model(kind: str, folder: Path) -> Path:
    match kind:
        case "gguf":
            return write_gguf(folder / "tiny.gguf")
        case "onnx":
            return write_onnx(folder / "tiny.onnx")
        case _:
            return write_safetensors(folder / "tiny")


@pytest.mark.parametrize("kind", ["gguf", "safetensors", "onnx"])
def test_document_follows_the_schema(kind: str, tmp_path: Path) -> None:
    document = json.dumps(ml_bom(inspect(model(kind, tmp_path)), at=AT))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None


def test_schema_check_finds_a_wrong_document(tmp_path: Path) -> None:
    document = ml_bom(inspect(model("gguf", tmp_path)), at=AT)
    document["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"] = [{"type": 1}]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is not None


def test_library_reads_files_hashes_and_licence(tmp_path: Path) -> None:
    inspection = inspect(model("safetensors", tmp_path))
    document = ml_bom(inspection, at=AT)
    document["metadata"]["component"].pop("modelCard")  # the library cannot read it
    component = Bom.from_json(document).metadata.component  # type: ignore[attr-defined]
    assert component.type is ComponentType.MACHINE_LEARNING_MODEL
    assert component.version == inspection.manifest.digest
    assert {(c.name, c.hashes[0].content) for c in component.components} == {
        (file.path, file.sha256) for file in inspection.manifest.files
    }
    assert [licence.id for licence in component.licenses] == ["MIT"]


def test_model_card_names_architecture_datasets_and_signature(tmp_path: Path) -> None:
    card = ml_bom(inspect(model("gguf", tmp_path)), at=AT)["metadata"]["component"]["modelCard"]
    assert card["modelParameters"] == {
        "modelArchitecture": "llama",
        "datasets": [{"type": "dataset", "name": "filings"}],
    }
    card = ml_bom(inspect(model("onnx", tmp_path)), at=AT)["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["inputs"] == [{"format": "x: float [batch, 4]"}]


def test_serial_number_depends_on_the_files_only(tmp_path: Path) -> None:
    file = model("gguf", tmp_path)
    first, second = ml_bom(inspect(file), at=AT), ml_bom(inspect(file), name="other")
    assert first["serialNumber"] == second["serialNumber"]
    file.unlink()
    write_gguf(file, "{{ messages[0].content }}")
    assert ml_bom(inspect(file))["serialNumber"] != first["serialNumber"]
