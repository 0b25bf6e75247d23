"""Registration of versions: checks files or an endpoint, and stores what they contain."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson

from drw.api.models.v1.discovery_pb2 import Model, ModelFile, RegisterVersionRequest
from drw.api.models.v1.versions_pb2 import Evaluation
from drw.kernel import walls
from drw.kernel.errors import InvalidRequest, TooLarge
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import to_json
from drw.model_files.errors import SignatureRejected
from drw.model_files.inspection import Inspection
from drw.model_files.limits import DEFAULT
from drw.model_files.signatures.trust import TrustPolicy
from drw.model_files.signatures.verification import verify
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions import endpoints, tensors
from drw.models.discovery.versions.endpoints import EndpointRules
from drw.models.discovery.versions.file_store import FileMissing, FileStore
from drw.models.discovery.versions.identity import parse, version_id
from drw.models.discovery.versions.inspector import Inspector
from drw.models.discovery.versions.store import VersionStore

ENGINES = {"gguf": "llama_cpp", "onnx": "onnx", "safetensors": "vllm"}
"""The engine of each format."""
KINDS = {
    "gguf": (Model.CHAT, Model.EMBEDDING, Model.RERANKER),
    "onnx": (Model.PREDICTIVE, Model.EMBEDDING, Model.RERANKER),
    "safetensors": (Model.CHAT, Model.EMBEDDING, Model.RERANKER),
}
"""The kinds that a model of each format can have."""
ENDPOINT_ENGINES = ("openai", "vertex")
MAX_CONTENTS = 256 << 10
"""Maximum bytes of the description of the files."""


class Registration:
    """Registers versions.

    Args:
        trust: whose signatures are trusted.
        require_signature: refuse files without a valid signature.
        max_versions: the maximum number of versions of an org.
    """

    def __init__(
        self,
        store: VersionStore,
        files: FileStore,
        inspector: Inspector,
        rules: EndpointRules,
        trust: TrustPolicy,
        *,
        require_signature: bool,
        max_versions: int,
    ) -> None:
        self._store = store
        self._files = files
        self._inspector = inspector
        self._rules = rules
        self._trust = trust
        self._require_signature = require_signature
        self._max_versions = max_versions

    async def register(self, request: RegisterVersionRequest) -> Row:
        """Register a version, or return the existing one.

        Raises:
            InvalidRequest: the request or the files are not valid; also `ModelRejected`.
            NotFound: the org has not uploaded a file.
            Conflict: the version exists with other metadata.
        """
        for evaluation in request.evaluations:
            check_evaluation(evaluation)
        if bool(request.files) == request.HasField("endpoint"):
            raise InvalidRequest("give files or an endpoint: exactly one of them", param="files")
        version = await (self._from_files(request) if request.files else self._from_endpoint(request))
        if parse(version_id(request.model, version["digest"])) is None:
            raise InvalidRequest(f"{request.model!r} cannot name a model", param="model")
        version |= {
            "model": request.model,
            "kind": Model.Kind.Name(request.kind),
            "walls": walls.for_new_object(request.walls, context.caller()),
        }
        return await self._store.register(version, request.files, request.evaluations, self._max_versions)

    async def _from_files(self, request: RegisterVersionRequest) -> dict[str, Any]:
        org = context.caller().org
        await self._check_uploaded(org, request.files)
        inspection = await self._inspector.inspect(org, request.model, request.files)
        description = inspection.description
        if request.kind not in KINDS[description.format]:
            kinds = ", ".join(Model.Kind.Name(kind) for kind in KINDS[description.format])
            raise InvalidRequest(f"a model of the format {description.format} can be: {kinds}", param="kind")
        engine = request.engine or ENGINES[description.format]
        if engine != ENGINES[description.format]:
            raise InvalidRequest(
                f"{engine!r} does not load {description.format}; it can be: {ENGINES[description.format]}",
                param="engine",
            )
        metadata = _metadata(request) | {"licence": request.licence or description.licence}
        signer = await self._signer(org, request.signature_sha256, inspection)
        metadata |= {"signer": signer, "signature_sha256": request.signature_sha256}
        return {
            "digest": inspection.manifest.digest,
            "engine": engine,
            "metadata": metadata,
            "contents": _contents(inspection),
        }

    async def _from_endpoint(self, request: RegisterVersionRequest) -> dict[str, Any]:
        if request.signature_sha256:
            raise InvalidRequest("an endpoint has no files to sign", param="signature_sha256")
        if request.kind != Model.CHAT:
            raise InvalidRequest("a version with an endpoint can be: CHAT", param="kind")
        engine = request.engine or "openai"
        if engine not in ENDPOINT_ENGINES:
            raise InvalidRequest(f"an endpoint needs an engine of: {', '.join(ENDPOINT_ENGINES)}", param="engine")
        await self._rules.check(request.endpoint)
        endpoint = endpoints.canonical(request.endpoint)
        return {
            "digest": endpoints.digest(Model.Kind.Name(request.kind), engine, endpoint),
            "engine": engine,
            "metadata": _metadata(request) | {"licence": request.licence, "endpoint": endpoint},
            "contents": {"context_length": request.endpoint.context_length},
        }

    async def _check_uploaded(self, org: str, files: Sequence[ModelFile]) -> None:
        for file in files:
            if file.size:
                raise InvalidRequest("size is output only", param="files.size")
            if await self._files.size(org, file.sha256) is None:
                raise FileMissing(file.sha256)

    async def _signer(self, org: str, sha256: str, inspection: Inspection) -> str:
        if not sha256:
            if self._require_signature:
                raise SignatureRejected("the files need a signature (the setting require_signature)")
            return ""
        size = await self._files.size(org, sha256)
        if size is None:
            raise FileMissing(sha256)
        if size > DEFAULT.bundle_bytes:
            raise TooLarge(f"a signature bundle has at most {DEFAULT.bundle_bytes:,} bytes", param="signature_sha256")
        bundle = await asyncio.to_thread(self._files.path(org, sha256).read_bytes)
        verified = await asyncio.to_thread(verify, bundle, inspection.manifest, self._trust)
        return verified.signer


def check_evaluation(evaluation: Evaluation) -> None:
    """Check that the figures of an evaluation result are finite, and that it has no output-only field.

    Raises:
        InvalidRequest: they are not.
    """
    if evaluation.by or evaluation.HasField("at"):
        raise InvalidRequest("by and at are output only", param="evaluation")
    for name, value in evaluation.metrics.items():
        if not math.isfinite(value):
            raise InvalidRequest(f"the metric {name!r} is {value}; it must be a number", param="metrics")


def _metadata(request: RegisterVersionRequest) -> dict[str, Any]:
    metadata: dict[str, Any] = {"owner": request.owner, "description": request.description}
    if request.HasField("lineage"):
        metadata["lineage"] = to_json(request.lineage)
    if request.HasField("price"):
        metadata["price"] = to_json(request.price)
    return metadata


def _contents(inspection: Inspection) -> dict[str, Any]:
    contents = asdict(inspection.description)
    del contents["chat_template"]  # the file has it
    contents["signature"] = {
        "inputs": tensors.as_json(inspection.description.inputs),
        "outputs": tensors.as_json(inspection.description.outputs),
    }
    if len(orjson.dumps(contents)) > MAX_CONTENTS:
        raise InvalidRequest(f"the description of the files has more than {MAX_CONTENTS:,} bytes", param="files")
    return contents
