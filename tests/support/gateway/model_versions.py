"""A validated version of a model that an alias names, created over HTTP by two persons."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from model_files.builders import write_gguf
from support.json_types import JsonObject

MAKER, CHECKER = "cert:maker", "cert:checker"
"""Callers that are different persons without keys on record."""


def create_version(http: httpx.Client, headers: Mapping[str, str], name: str, alias: str, text: str) -> dict[str, str]:
    """Create a version with an alias, and a pending promotion; return the ids `version`, `sha256`, `promotion`.

    Each text of the objects is `text`.
    """

    def made(path: str, verb: str = "POST", key: str = MAKER, **options: object) -> JsonObject:
        answer = http.request(verb, path, headers={**headers, "x-drw-key": key}, **options)  # type: ignore[arg-type]
        assert answer.status_code == 200, f"{verb} {path}: {answer.text}"
        result: JsonObject = answer.json()
        return result

    with tempfile.TemporaryDirectory() as folder:
        content = write_gguf(Path(folder) / "model.gguf").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    made(f"/api/v1/model-files/{sha256}", "PUT", content=content)
    files = [{"path": "model.gguf", "sha256": sha256}]
    version = {"model": name, "kind": "CHAT", "owner": text, "description": text, "files": files}
    id_ = str(made("/api/v1/model-versions", json=version)["id"])
    path = f"/api/v1/model-versions/{id_}"
    expires_at = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    record = {"scope": "NOT_IN_SCOPE", "scope_reason": text, "owner": text, "expires_at": expires_at}
    made(f"{path}/validation", "PUT", CHECKER, json={"record": record})
    made(f"{path}:approve", key=CHECKER)
    request = {"version": id_, "reason": text}
    promotion = made("/api/v1/promotions", json=request | {"alias": alias})["id"]
    made(f"/api/v1/promotions/{promotion}:approve", key=CHECKER)
    pending = made("/api/v1/promotions", json=request | {"alias": f"{alias}-next"})["id"]
    return {"version": id_, "sha256": sha256, "promotion": str(pending)}
