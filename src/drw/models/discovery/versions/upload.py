"""Upload of model files: `PUT` and `HEAD /api/v1/model-files/{sha256}`, with the bytes as the body."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from drw.kernel.errors import InvalidRequest, RateLimited, TooLarge
from drw.kernel.rpc import context
from drw.models.discovery.versions.file_store import BLOCK, FileMissing, FileStore

PATH = "/api/v1/model-files/{sha256}"
SCOPE = "models:write"
SHA256 = re.compile(r"[0-9a-f]{64}")


class FileRoutes:
    """Handlers of the uploads. An org has at most `max_uploads` at once."""

    def __init__(self, files: FileStore, max_uploads: int) -> None:
        self._files = files
        self._max_uploads = max_uploads
        self._uploads: Counter[str] = Counter()

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route(PATH, self.put, methods=["PUT"]), Route(PATH, self.head, methods=["HEAD"])]

    async def put(self, request: Request) -> Response:
        """Store a file under its SHA-256; a file that is stored already stays as it is."""
        org, sha256 = _target(request)
        declared = int(request.headers.get("content-length") or 0)
        if declared > self._files.max_file_bytes:
            raise TooLarge(f"a file has at most {self._files.max_file_bytes:,} bytes (the setting max_file_bytes)")
        with self._slot(org):
            if await self._files.size(org, sha256) is None:
                await self._files.check_quota(org, declared)
            with self._files.receiving() as pending:
                buffered = bytearray()
                async for part in request.stream():
                    buffered += part
                    if len(buffered) >= BLOCK:
                        await asyncio.to_thread(pending.write, bytes(buffered))
                        buffered.clear()
                await asyncio.to_thread(pending.write, bytes(buffered))
                await self._files.store(org, sha256, pending)
                size = pending.size
        return Response(orjson.dumps({"sha256": sha256, "size": size}), media_type="application/json")

    async def head(self, request: Request) -> Response:
        """Return 200 if the org has the file, else 404."""
        org, sha256 = _target(request)
        if (size := await self._files.size(org, sha256)) is None:
            raise FileMissing(sha256)
        return Response(headers={"x-file-size": str(size)})

    @contextmanager
    def _slot(self, org: str) -> Iterator[None]:
        if self._uploads[org] >= self._max_uploads:
            raise RateLimited(
                f"the org {org!r} has {self._max_uploads} uploads at once, the maximum (the setting max_uploads)"
            )
        self._uploads[org] += 1
        try:
            yield
        finally:
            self._uploads[org] -= 1
            if not self._uploads[org]:
                del self._uploads[org]


def _target(request: Request) -> tuple[str, str]:
    principal = context.caller()
    principal.require_scope(SCOPE)
    sha256 = request.path_params["sha256"]
    if not SHA256.fullmatch(sha256):
        raise InvalidRequest(f"{sha256[:80]!r} is not a SHA-256: 64 hexadecimal digits in lower case", param="sha256")
    return principal.org, sha256
