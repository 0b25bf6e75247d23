"""Conversion of stored versions to messages: descriptions, candidates for a request, and bills of materials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from drw.api.models.v1.discovery_pb2 import Model, ModelFile, ModelVersion, Permit, ResolvedModel
from drw.api.models.v1.versions_pb2 import Evaluation, ModelPrice, Validation, ValidationRecord
from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.row_times import set_times
from drw.model_files.description import Description, TensorSignature
from drw.model_files.inspection import Inspection
from drw.model_files.manifest import FileEntry, Manifest
from drw.model_files.sbom import ml_bom
from drw.models.discovery.governance import permits
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions import tensors

MAX_CONCURRENT = {"llama_cpp": 8}
DEFAULT_MAX_CONCURRENT = 256
SETTINGS = "settings"
"""The registrar of the models of the settings."""


def version(row: Row, aliases: Sequence[str] = ()) -> ModelVersion:
    """Return a stored version as a message; its permit ends with its record."""
    metadata, contents = row["metadata"], row["contents"]
    message = ModelVersion(
        id=row["id"],
        model=row["model"],
        digest=row["digest"],
        kind=row["kind"],
        engine=row["engine"],
        stage=row["stage"],
        owner=metadata["owner"],
        licence=metadata["licence"],
        description=metadata["description"],
        context_length=contents.get("context_length", 0),
        inputs=tensors.as_messages(contents.get("signature", {}).get("inputs", ())),
        outputs=tensors.as_messages(contents.get("signature", {}).get("outputs", ())),
        aliases=aliases,
        registered_by=row["registered_by"],
        retire_reason=row["retire_reason"],
        walls=row["walls"],
        signer=metadata.get("signer", ""),
        format=contents.get("format", ""),
        architecture=contents.get("architecture", ""),
        parameters=contents.get("parameters", 0),
        files_deleted_by=row["files_deleted_by"],
    )
    for name in ("lineage", "price", "endpoint"):
        if name in metadata:
            ParseDict(metadata[name], getattr(message, name))
    message.registered_at.FromDatetime(row["registered_at"])
    if row["retired_at"] is not None:
        message.retired_at.FromDatetime(row["retired_at"])
    if row["files_deleted_at"] is not None:
        message.files_deleted_at.FromDatetime(row["files_deleted_at"])
    if reason := permits.refusal(row):
        message.blocked = reason
    else:
        message.permit.CopyFrom(permits.permit(row))
    return message


def model(row: Row) -> Model:
    """Return a version as it is listed among the models."""
    return Model(
        id=row["id"],
        kind=row["kind"],
        owned_by=row["metadata"]["owner"],
        created=int(row["registered_at"].timestamp()),
        engine=row["engine"],
        context_length=row["contents"].get("context_length", 0),
        licence=row["metadata"]["licence"],
        digest=row["digest"],
    )


def resolved(row: Row, files: Sequence[ModelFile], permit: Permit) -> ResolvedModel:
    """Return a version as a candidate for requests.

    Raises:
        InvalidRequest: no engine of the platform loads its files.
    """
    contents, endpoint = row["contents"], row["metadata"].get("endpoint")
    if endpoint is None and row["engine"] == "vllm":
        raise InvalidRequest(
            f"{row['id']!r} has safetensors files, which the platform does not load: serve them with vLLM, and "
            "register a version with that endpoint",
            param="model",
        )
    message = ResolvedModel(
        model=model(row),
        upstream_model=row["model"],
        max_concurrent=MAX_CONCURRENT.get(row["engine"], DEFAULT_MAX_CONCURRENT),
        files=files,
        inputs=tensors.as_messages(contents.get("signature", {}).get("inputs", ())),
        outputs=tensors.as_messages(contents.get("signature", {}).get("outputs", ())),
        affinity="session",
        prefill="assistant" if row["engine"] == "llama_cpp" else "none",
        permit=permit,
        org=row["org"],
    )
    if endpoint is not None:
        message.base_url = endpoint["base_urls"][0]
        message.base_urls.extend(endpoint["base_urls"])
        message.upstream_model = endpoint["upstream_model"]
        message.api_key_variable = endpoint["api_key_variable"]
    if price := row["metadata"].get("price"):
        message.price.CopyFrom(ModelPrice(**price))
    return message


def evaluation(row: Row) -> Evaluation:
    """Return an evaluation result as a message."""
    message = Evaluation(suite=row["suite"], data=row["data"], metrics=row["metrics"], by=row["added_by"])
    message.at.FromDatetime(row["added_at"])
    return message


def validation(row: Row) -> Validation:
    """Return a validation record as a message."""
    message = Validation(
        id=row["id"],
        record=ParseDict(row["record"], ValidationRecord()),
        validator=row["validator"],
        approved_by=row["approved_by"],
        revoked_by=row["revoked_by"],
        revoke_reason=row["revoke_reason"],
    )
    set_times(message, row, "submitted_at", "approved_at", "superseded_at", "revoked_at")
    return message


def bill_of_materials(row: Row, files: Sequence[ModelFile]) -> dict[str, Any]:
    """Return the CycloneDX document of a version with files.

    Raises:
        InvalidRequest: the version has an endpoint in place of files.
    """
    if not files:
        raise InvalidRequest(f"{row['id']!r} has no files: its provider has the bill of materials", param="id")
    contents = {name: value for name, value in row["contents"].items() if name != "signature"}
    for name in ("inputs", "outputs"):
        contents[name] = tuple(
            TensorSignature(each["name"], each["dtype"], None if each["shape"] is None else tuple(each["shape"]))
            for each in contents[name]
        )
    contents["licence"] = row["metadata"]["licence"]
    contents["datasets"] = [
        *dict.fromkeys([*contents["datasets"], *row["metadata"].get("lineage", {}).get("data", ())])
    ]
    parent = row["metadata"].get("lineage", {}).get("parent", "")
    contents["base_models"] = [*dict.fromkeys([*contents["base_models"], *filter(None, [parent])])]
    manifest = Manifest(row["id"], tuple(FileEntry(file.path, file.size, file.sha256) for file in files))
    return ml_bom(Inspection(manifest, Description(**contents)), name=row["id"], at=row["registered_at"])
