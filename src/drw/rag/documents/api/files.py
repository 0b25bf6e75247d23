"""OpenAI's Files API: `/v1/files`."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from drw.kernel.errors import InvalidRequest, TooLarge
from drw.kernel.rpc import context
from drw.kernel.storage.blob_store import BlobStore
from drw.kernel.validation import check_choice
from drw.rag.documents.api import openai_objects
from drw.rag.documents.api.pagination import parse_page
from drw.rag.documents.api.upload import WALLS_ARRAY, UploadForm
from drw.rag.documents.file_contents import PURPOSES, FileContents
from drw.rag.documents.library import DocumentLibrary
from drw.rag.documents.storage.files import Files

MAX_FORM_BYTES = 64 << 10
"""Maximum size of a form without its file."""


class FileRoutes:
    """Handlers of `/v1/files`."""

    def __init__(
        self, library: DocumentLibrary, files: Files, contents: FileContents, blobs: BlobStore, max_bytes: int
    ) -> None:
        self._library = library
        self._files = files
        self._contents = contents
        self._blobs = blobs
        self._max_bytes = max_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.list_files, methods=["GET"]),
            Route("/v1/files/{file}", self.get, methods=["GET"]),
            Route("/v1/files/{file}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{file}/content", self.content, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Store an uploaded file."""
        context.caller().require_scope("documents:write")
        if int(request.headers.get("content-length") or 0) > self._max_bytes + MAX_FORM_BYTES:
            raise TooLarge(f"a file has at most {self._max_bytes:,} bytes", param="file")
        with self._blobs.receiving() as upload:
            form = UploadForm(request.headers.get("content-type", ""), upload)
            await form.read(request.stream())
            for name in form.fields.keys() - {"password", "purpose", "walls", WALLS_ARRAY}:
                raise InvalidRequest(f"{name!r} is not a field; there are: file, password, purpose, walls", param=name)
            walls = f"{form.fields.get('walls', '')} {form.fields.get(WALLS_ARRAY, '')}"
            requested_walls = walls.replace(",", " ").split()
            purpose = form.fields.get("purpose", "")
            check_choice(purpose, PURPOSES, "purpose")
            password = form.fields.get("password", "")
            file = await self._contents.store(upload, form.file_name or "", purpose, requested_walls, password)
        return json_response(openai_objects.file(file))

    async def list_files(self, request: Request) -> Response:
        """Return a page of the desk's files."""
        context.caller().require_scope("documents:read")
        page = parse_page(request, default=1000, maximum=10_000)
        files = await self._files.list(page, request.query_params.get("purpose", ""))
        return json_response(openai_objects.page([openai_objects.file(file) for file in files], page.limit - 1))

    async def get(self, request: Request) -> Response:
        """Return a file object."""
        context.caller().require_scope("documents:read")
        return json_response(openai_objects.file(await self._files.get(request.path_params["file"])))

    async def content(self, request: Request) -> Response:
        """Return the bytes of a file as a download, which a browser does not render."""
        context.caller().require_scope("documents:read")
        file = await self._files.get(request.path_params["file"])
        return FileResponse(
            self._blobs.path(file.content_hash),
            media_type="application/octet-stream",
            filename=file.name,
            headers={"x-content-type-options": "nosniff", "cache-control": "no-store"},
        )

    async def delete(self, request: Request) -> Response:
        """Delete a file, and remove it from every vector store."""
        context.caller().require_scope("documents:write")
        await self._library.delete(request.path_params["file"])
        return json_response(openai_objects.deleted(request.path_params["file"], "file"))


def json_response(content: openai_objects.JsonObject) -> Response:
    """Return an object as a JSON response."""
    return Response(orjson.dumps(content), media_type="application/json")
