"""Response objects of OpenAI's API for files and vector stores (API reference, "Files" and "Vector stores")."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drw.api.rag.v1.vector_store_pb2 import Collection
from drw.rag.documents.storage.files import File
from drw.rag.documents.storage.vector_store_files import IndexingProgress, VectorStoreFile

JsonObject = dict[str, Any]


def file(record: File) -> JsonObject:
    """Return a file object."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at.timestamp()),
        "expires_at": None,
        "filename": record.name,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
        "walls": list(record.walls),
        "parent_id": record.parent,
        "encoding": record.details.get("encoding"),
        "decrypted": bool(record.details.get("decrypted")),
        "warnings": list(record.details.get("warnings", ())),
    }


def vector_store(collection: Collection, progress: IndexingProgress) -> JsonObject:
    """Return a vector store object."""
    return {
        "id": collection.id,
        "object": "vector_store",
        "created_at": collection.created_at.seconds,
        "name": collection.name,
        "usage_bytes": collection.bytes,
        "file_counts": counts(progress),
        "status": "in_progress" if progress.in_progress else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": collection.created_at.seconds,
        "metadata": dict(collection.metadata),
        "walls": list(collection.walls),
    }


def vector_store_file(record: VectorStoreFile) -> JsonObject:
    """Return a vector store file object."""
    error = {"code": record.error_code, "message": record.error} if record.state == "failed" else None
    return {
        "id": record.file,
        "object": "vector_store.file",
        "usage_bytes": record.bytes,
        "created_at": int(record.created_at.timestamp()),
        "vector_store_id": record.collection,
        "status": record.state,
        "last_error": error,
        "warnings": list(record.warnings),
        "attributes": dict(record.attributes),
        "chunking_strategy": {"type": "other"},
        "walls": list(record.walls),
    }


def batch(id_: str, collection: str, created_at: datetime, progress: IndexingProgress) -> JsonObject:
    """Return a vector store file batch object."""
    final_status = "cancelled" if progress.cancelled else "completed"
    return {
        "id": id_,
        "object": "vector_store.files_batch",
        "created_at": int(created_at.timestamp()),
        "vector_store_id": collection,
        "status": "in_progress" if progress.in_progress else final_status,
        "file_counts": counts(progress),
    }


def counts(progress: IndexingProgress) -> JsonObject:
    """Return the number of files in each state."""
    return {
        "in_progress": progress.in_progress,
        "completed": progress.completed,
        "failed": progress.failed,
        "cancelled": progress.cancelled,
        "total": progress.files,
    }


def page(items: Sequence[JsonObject], limit: int) -> JsonObject:
    """Return a page of a list. An item beyond the limit is cut off and sets `has_more`."""
    data = list(items[:limit])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(items) > limit,
    }


def deleted(id_: str, object_type: str) -> JsonObject:
    """Return the confirmation of a deletion."""
    return {"id": id_, "object": object_type, "deleted": True}
