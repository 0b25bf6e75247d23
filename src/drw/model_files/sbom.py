"""ML-BOM of a model: a CycloneDX 1.6 document with files, hashes, licence, architecture and datasets.

Specification: https://cyclonedx.org/docs/1.6/json/. Written directly, since the Python library has no model cards.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from drw.model_files.description import Description
from drw.model_files.inspection import Inspection

SPECIFICATION = "1.6"
NAMESPACE = uuid.UUID("6f9a3c0e-2d5b-5b0e-9a64-5f1f0f1a7c11")


def ml_bom(inspection: Inspection, *, name: str = "", at: datetime | None = None) -> dict[str, Any]:
    """Return the CycloneDX document as a JSON value. The same files give the same serial number.

    Args:
        name: the name of the model; default: that of its folder or file.
        at: the time of the document, with a time zone; default: now.
    """
    manifest, description = inspection.manifest, inspection.description
    digest = manifest.digest
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{file.path}",
            "name": file.path,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            "properties": [_property("size", file.size)],
        }
        for file in manifest.files
    ]
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": digest,
        "name": name or manifest.name,
        "version": digest,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
        "modelCard": {"modelParameters": _model_parameters(description)},
        "properties": _properties(description),
        "components": files,
    }
    if description.licence:
        model["licenses"] = [{"license": _licence(description.licence)}]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"timestamp": (at or datetime.now(UTC)).isoformat(timespec="seconds"), "component": model},
    }


def _model_parameters(description: Description) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if description.architecture:
        parameters["modelArchitecture"] = description.architecture
    if description.datasets:
        parameters["datasets"] = [{"type": "dataset", "name": name} for name in description.datasets]
    for key, tensors in (("inputs", description.inputs), ("outputs", description.outputs)):
        if tensors:
            shapes = [(tensor, "?" if tensor.shape is None else list(tensor.shape)) for tensor in tensors]
            parameters[key] = [{"format": f"{t.name}: {t.dtype} {shape}".replace("'", "")} for t, shape in shapes]
    return parameters


def _properties(description: Description) -> list[dict[str, str]]:
    values: dict[str, object] = {
        "format": description.format,
        "parameters": description.parameters,
        "tensors": description.tensors,
        "dtypes": " ".join(f"{name}={number}" for name, number in description.dtypes),
        "context_length": description.context_length,
        "tokenizer": description.tokenizer,
    }
    base = [_property("base_model", name) for name in description.base_models]
    return [_property(name, value) for name, value in values.items() if value] + base


def _property(name: str, value: object) -> dict[str, str]:
    return {"name": f"drw:model:{name}", "value": str(value)}


def _licence(licence: str) -> dict[str, str]:
    """Return a licence with its SPDX id where it is one of the common ones of models, else by name."""
    return {"id": SPDX[licence.lower()]} if licence.lower() in SPDX else {"name": licence}


SPDX = {
    licence.lower(): licence
    for licence in ("Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")
    + ("CC0-1.0", "GPL-3.0-only", "AGPL-3.0-only", "LGPL-3.0-only", "MPL-2.0")
}
