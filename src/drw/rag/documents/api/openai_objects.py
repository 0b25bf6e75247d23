"""How files and vector stores look in OpenAI's API (API reference, "Files" and "Vector stores")."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drw.api.rag.v1.vector_store_pb2 import Collection
from drw.rag.documents.storage.files import File
from drw.rag.documents.storage.vector_store_files import IndexingProgress, VectorStoreFile

Shape = dict[str, Any]


def file(found: File) -> Shape:
    """Return a file object."""
    return {
        "id": found.id,
        "object": "file",
        "bytes": found.bytes,
        "created_at": int(found.created_at.timestamp()),
        "expires_at": None,
        "filename": found.name,
        "purpose": found.purpose,
        "status": "processed",
        "status_details": None,
        "walls": list(found.walls),
        "parent_id": found.parent,
        "encoding": found.details.get("encoding"),
        "decrypted": bool(found.details.get("decrypted")),
        "warnings": list(found.details.get("warnings", ())),
    }


def vector_store(found: Collection, progress: IndexingProgress) -> Shape:
    """Return a vector store object."""
    return {
        "id": found.id,
        "object": "vector_store",
        "created_at": found.created_at.seconds,
        "name": found.name,
        "usage_bytes": found.bytes,
        "file_counts": counts(progress),
        "status": "in_progress" if progress.in_progress else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": found.created_at.seconds,
        "metadata": dict(found.metadata),
        "walls": list(found.walls),
    }


def vector_store_file(found: VectorStoreFile) -> Shape:
    """Return a vector store file object."""
    error = {"code": found.error_code, "message": found.error} if found.state == "failed" else None
    return {
        "id": found.file,
        "object": "vector_store.file",
        "usage_bytes": found.bytes,
        "created_at": int(found.created_at.timestamp()),
        "vector_store_id": found.collection,
        "status": found.state,
        "last_error": error,
        "warnings": list(found.warnings),
        "attributes": dict(found.attributes),
        "chunking_strategy": {"type": "other"},
        "walls": list(found.walls),
    }


def batch(id_: str, collection: str, created_at: datetime, progress: IndexingProgress) -> Shape:
    """Return a vector store file batch object."""
    settled = "cancelled" if progress.cancelled else "completed"
    return {
        "id": id_,
        "object": "vector_store.files_batch",
        "created_at": int(created_at.timestamp()),
        "vector_store_id": collection,
        "status": "in_progress" if progress.in_progress else settled,
        "file_counts": counts(progress),
    }


def counts(progress: IndexingProgress) -> Shape:
    """Return how many files are in which state."""
    return {
        "in_progress": progress.in_progress,
        "completed": progress.completed,
        "failed": progress.failed,
        "cancelled": progress.cancelled,
        "total": progress.files,
    }


def listed(items: Sequence[Shape], limit: int) -> Shape:
    """Return a part of a list, made from one item more than it may have where there are more."""
    part = list(items[:limit])
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": len(items) > limit,
    }


def deleted(id_: str, kind: str) -> Shape:
    """Return that something is deleted."""
    return {"id": id_, "object": kind, "deleted": True}
