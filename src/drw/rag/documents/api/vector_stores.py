"""OpenAI's /v1/vector_stores, with their files and batches; search is the retrieval service's."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drw.api.rag.v1.vector_store_pb2 import (
    Collection,
    CreateCollectionRequest,
    ListCollectionsRequest,
    UpdateCollectionRequest,
)
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.walls import MAX_WALLS
from drw.rag.documents.api import openai_objects, request_parameters
from drw.rag.documents.api.files import answer
from drw.rag.documents.library import DocumentLibrary
from drw.rag.documents.storage.vector_store_files import STATES, IndexingProgress

MAX_BATCH = 2000
MAX_COLLECTIONS = 10_000


class VectorStoreRoutes:
    """Each method answers one route."""

    def __init__(self, shelf: DocumentLibrary) -> None:
        self._shelf = shelf

    def routes(self) -> list[Route]:
        """Return the routes."""
        one, files, batch = "/v1/vector_stores/{store}", "/{store}/files/{file}", "/{store}/file_batches/{batch}"
        files, batch = f"/v1/vector_stores{files}", f"/v1/vector_stores{batch}"
        return [
            Route("/v1/vector_stores", self.create, methods=["POST"]),
            Route("/v1/vector_stores", self.list_stores, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.update, methods=["POST"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/files", self.attach, methods=["POST"]),
            Route(f"{one}/files", self.list_files, methods=["GET"]),
            Route(files, self.get_file, methods=["GET"]),
            Route(files, self.update_file, methods=["POST"]),
            Route(files, self.detach, methods=["DELETE"]),
            Route(f"{files}/content", self.file_content, methods=["GET"]),
            Route(f"{one}/file_batches", self.create_batch, methods=["POST"]),
            Route(batch, self.get_batch, methods=["GET"]),
            Route(f"{batch}/files", self.list_batch, methods=["GET"]),
            Route(f"{batch}/cancel", self.cancel_batch, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Make a vector store, with the first files where some are named."""
        context.caller().must_hold("documents:write")
        body = await request_parameters.body(request, ("name", "metadata", "file_ids", "walls"))
        ids = request_parameters.texts(body, "file_ids", MAX_BATCH)
        files = [await self._shelf.files.get(id_) for id_ in ids]
        name = request_parameters.text(body, "name") or f"vector-store-{secrets.token_hex(4)}"
        metadata = request_parameters.pairs(body, "metadata", (str,))
        inside = request_parameters.texts(body, "walls", MAX_WALLS)
        wanted = CreateCollectionRequest(name=name, metadata=metadata, walls=inside)
        made = await self._shelf.store.create_collection(wanted)
        for file in files:
            await self._shelf.attach(made, file, {}, inside)
        return await self._shown(made)

    async def list_stores(self, request: Request) -> Response:
        """Return a part of the desk's vector stores."""
        context.caller().must_hold("documents:read")
        page = request_parameters.page(request, default=20, most=100)
        found = sorted(await self._all(), key=lambda c: (c.created_at.ToNanoseconds(), c.id), reverse=page.newest_first)
        if page.after:
            places = [number for number, collection in enumerate(found, 1) if collection.id == page.after]
            if not places:
                raise NotFound(f"there is no vector store {page.after!r}", param="after")
            found = found[places[0] :]
        part = found[: page.limit]
        progress = await self._shelf.attachments.progress_of([c.id for c in part])
        shown = [openai_objects.vector_store(c, progress.get(c.id, IndexingProgress())) for c in part]
        return answer(openai_objects.listed(shown, page.limit - 1))

    async def get(self, request: Request) -> Response:
        """Return one vector store."""
        return await self._shown(await self._store(request, "documents:read"))

    async def update(self, request: Request) -> Response:
        """Change the name or the metadata."""
        found = await self._store(request, "documents:write")
        body = await request_parameters.body(request, ("name", "metadata"))
        metadata = request_parameters.pairs(body, "metadata", (str,)) if "metadata" in body else dict(found.metadata)
        wanted = UpdateCollectionRequest(
            collection=found.id, name=request_parameters.text(body, "name"), metadata=metadata
        )
        return await self._shown(await self._shelf.store.update_collection(wanted))

    async def delete(self, request: Request) -> Response:
        """Delete a vector store; its files stay."""
        found = await self._store(request, "documents:write")
        await self._shelf.delete_collection(found.id)
        return answer(openai_objects.deleted(found.id, "vector_store.deleted"))

    async def attach(self, request: Request) -> Response:
        """Begin to put a file into a vector store."""
        found = await self._store(request, "documents:write")
        body = await request_parameters.body(request, ("file_id", "attributes", "walls"))
        file = await self._shelf.files.get(request_parameters.text(body, "file_id"))
        await self._shelf.attach(
            found,
            file,
            request_parameters.pairs(body, "attributes"),
            request_parameters.texts(body, "walls", MAX_WALLS),
        )
        return answer(openai_objects.vector_store_file(await self._shelf.attachments.get(found.id, file.id)))

    async def list_files(self, request: Request) -> Response:
        """Return a part of a vector store's files."""
        return await self._files(request, batch="")

    async def get_file(self, request: Request) -> Response:
        """Return one file of a vector store."""
        found = await self._store(request, "documents:read")
        attachment = await self._shelf.attachments.get(found.id, request.path_params["file"])
        return answer(openai_objects.vector_store_file(attachment))

    async def update_file(self, request: Request) -> Response:
        """Change the attributes of a file: searches find the new ones at once."""
        found = await self._store(request, "documents:write")
        attachment = await self._shelf.attachments.get(found.id, request.path_params["file"])
        attributes = request_parameters.pairs(await request_parameters.body(request, ("attributes",)), "attributes")
        changed = await self._shelf.update_attributes(found.id, attachment.file, attributes)
        return answer(openai_objects.vector_store_file(changed))

    async def detach(self, request: Request) -> Response:
        """Take a file out of a vector store; the file stays."""
        found = await self._store(request, "documents:write")
        await self._shelf.detach(found.id, request.path_params["file"])
        return answer(openai_objects.deleted(request.path_params["file"], "vector_store.file.deleted"))

    async def file_content(self, request: Request) -> Response:
        """Return the text of a file, page by page."""
        found = await self._store(request, "documents:read")
        attachment = await self._shelf.attachments.get(found.id, request.path_params["file"])
        pages = await self._shelf.text(await self._shelf.files.get(attachment.file))
        data = [{"type": "text", "text": page} for page in pages]
        return answer({"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None})

    async def create_batch(self, request: Request) -> Response:
        """Begin to put many files into a vector store."""
        found = await self._store(request, "documents:write")
        body = await request_parameters.body(request, ("file_ids", "files", "attributes", "walls"))
        inside = request_parameters.texts(body, "walls", MAX_WALLS)
        return await self._shown_batch(found, await self._shelf.attach_batch(found, _orders(body), inside))

    async def get_batch(self, request: Request) -> Response:
        """Return one batch."""
        found = await self._store(request, "documents:read")
        return await self._shown_batch(found, request.path_params["batch"])

    async def list_batch(self, request: Request) -> Response:
        """Return a part of a batch's files."""
        return await self._files(request, batch=request.path_params["batch"])

    async def cancel_batch(self, request: Request) -> Response:
        """Stop what is not done yet of a batch."""
        found = await self._store(request, "documents:write")
        await self._shelf.cancel_batch(found.id, request.path_params["batch"])
        return await self._shown_batch(found, request.path_params["batch"])

    async def _store(self, request: Request, scope: str) -> Collection:
        context.caller().must_hold(scope)
        return await self._shelf.collection(request.path_params["store"])

    async def _all(self) -> list[Collection]:
        found: list[Collection] = []
        token = ""
        while len(found) < MAX_COLLECTIONS:
            part = await self._shelf.store.list_collections(ListCollectionsRequest(page_size=1000, page_token=token))
            found += part.collections
            if not (token := part.next_page_token):
                break
        return found

    async def _files(self, request: Request, batch: str) -> Response:
        found = await self._store(request, "documents:read")
        if batch:
            await self._shelf.batch(found.id, batch)
        state = request.query_params.get("filter", "")
        if state and state not in STATES:
            raise InvalidRequest(f"filter is {state!r}; it can be: {', '.join(STATES)}", param="filter")
        page = request_parameters.page(request, default=20, most=100)
        part = await self._shelf.attachments.list(found.id, page, state, batch)
        return answer(openai_objects.listed([openai_objects.vector_store_file(a) for a in part], page.limit - 1))

    async def _shown(self, found: Collection) -> Response:
        return answer(openai_objects.vector_store(found, await self._shelf.attachments.progress(found.id)))

    async def _shown_batch(self, found: Collection, batch: str) -> Response:
        created_at, progress = await self._shelf.batch(found.id, batch)
        return answer(openai_objects.batch(batch, found.id, created_at, progress))


def _orders(body: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return which files a batch has, each with its attributes."""
    if "files" not in body:
        shared = request_parameters.pairs(body, "attributes")
        return [(id_, shared) for id_ in _some(request_parameters.texts(body, "file_ids", MAX_BATCH))]
    files = body["files"]
    if "attributes" in body:
        raise InvalidRequest("with files, each of them has attributes of its own", param="attributes")
    if "file_ids" in body or not isinstance(files, list) or len(files) > MAX_BATCH:
        raise InvalidRequest(f"a batch has file_ids or files, and at most {MAX_BATCH} of them", param="files")
    if not all(isinstance(file, dict) for file in files):
        raise InvalidRequest("each of files must be an object with file_id", param="files")
    known = ("file_id", "attributes")
    files = [request_parameters.fields(file, known, f"files[{number}].") for number, file in enumerate(files)]
    orders = {request_parameters.text(file, "file_id"): request_parameters.pairs(file, "attributes") for file in files}
    return list(_some(list(orders.items())))


def _some(orders: list[Any]) -> list[Any]:
    if not orders:
        raise InvalidRequest("a batch needs at least one file", param="file_ids")
    return orders
