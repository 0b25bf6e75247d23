"""OpenAI's /v1/files."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from drw.kernel.errors import InvalidRequest, TooLarge
from drw.kernel.rpc import context
from drw.rag.documents.api import openai_objects, request_parameters
from drw.rag.documents.api.upload import REPEATED, UploadForm
from drw.rag.documents.library import DocumentLibrary

FORM_BYTES = 64 << 10
"""What a form may have beside its file."""


class FileRoutes:
    """Each method answers one route."""

    def __init__(self, shelf: DocumentLibrary, most_bytes: int) -> None:
        self._shelf = shelf
        self._most_bytes = most_bytes

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
        """Keep a file."""
        context.caller().must_hold("documents:write")
        if int(request.headers.get("content-length") or 0) > self._most_bytes + FORM_BYTES:
            raise TooLarge(f"a file may have {self._most_bytes:,} bytes", param="file")
        with self._shelf.content.receiving() as incoming:
            form = UploadForm(request.headers.get("content-type", ""), incoming)
            await form.read(request.stream())
            for name in form.fields.keys() - {"password", "purpose", "walls", REPEATED}:
                raise InvalidRequest(f"{name!r} is not a field; there are: file, password, purpose, walls", param=name)
            inside = f"{form.fields.get('walls', '')} {form.fields.get(REPEATED, '')}".replace(",", " ").split()
            purpose, password = form.fields.get("purpose", ""), form.fields.get("password", "")
            found = await self._shelf.put(incoming, form.file_name or "", purpose, inside, password)
        return answer(openai_objects.file(found))

    async def list_files(self, request: Request) -> Response:
        """Return a part of the desk's files."""
        context.caller().must_hold("documents:read")
        page = request_parameters.page(request, default=1000, most=10_000)
        found = await self._shelf.files.list(page, request.query_params.get("purpose", ""))
        return answer(openai_objects.listed([openai_objects.file(file) for file in found], page.limit - 1))

    async def get(self, request: Request) -> Response:
        """Return one file."""
        context.caller().must_hold("documents:read")
        return answer(openai_objects.file(await self._shelf.files.get(request.path_params["file"])))

    async def content(self, request: Request) -> Response:
        """Return the bytes of a file, for saving: a browser must not run them."""
        context.caller().must_hold("documents:read")
        file = await self._shelf.files.get(request.path_params["file"])
        return FileResponse(
            self._shelf.content.path(file.content_hash),
            media_type="application/octet-stream",
            filename=file.name,
            headers={"x-content-type-options": "nosniff", "cache-control": "no-store"},
        )

    async def delete(self, request: Request) -> Response:
        """Delete a file everywhere."""
        context.caller().must_hold("documents:write")
        await self._shelf.delete(request.path_params["file"])
        return answer(openai_objects.deleted(request.path_params["file"], "file"))


def answer(shape: openai_objects.Shape) -> Response:
    """Return a shape as an answer."""
    return Response(orjson.dumps(shape), media_type="application/json")
