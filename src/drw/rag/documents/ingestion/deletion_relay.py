"""Relay of the deletion outbox: sends each deletion to the vector store until it is confirmed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from drw.api.rag.v1.vector_store_pb2 import DeleteCollectionRequest, DeleteDocumentRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.errors import DeadlineExceeded, DrwError, NotFound, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.rag.documents.storage.deletions import Deletion, Deletions

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
SWEEP_AFTER_SECONDS = 5.0
"""Younger deletions are sent by the request that enqueued them."""
RPC_SECONDS = 60.0


class DeletionRelay:
    """Sends deletions at least once; a repeated deletion has no effect."""

    def __init__(self, deletions: Deletions, vector_store: VectorStoreClient) -> None:
        self._deletions = deletions
        self._vector_store = vector_store

    async def send(self, fences: Sequence[int]) -> None:
        """Send committed deletions; afterwards no search returns the documents.

        Raises:
            Unavailable: the vector store does not answer; `sweep` sends them later.
        """
        try:
            for deletion in await self._deletions.get(fences):
                await self._send(deletion)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(
                f"{error.message}; the deletion is recorded, and will be completed", **error.metadata
            ) from error

    async def sweep(self) -> None:
        """Send unconfirmed deletions until cancelled: their process died, or the vector store did not answer."""
        while True:
            with suppress(Unavailable):
                for deletion in await self._deletions.older_than(SWEEP_AFTER_SECONDS):
                    await self._send_or_log(deletion)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _send_or_log(self, deletion: Deletion) -> None:
        try:
            await self._send(deletion)
        except DrwError as error:
            log.warning("a deletion in the vector store will be retried: %s", telemetry.loggable(error))

    async def _send(self, deletion: Deletion) -> None:
        trace = telemetry.incoming_context({"traceparent": deletion.trace})
        with context.acting_for(deletion.caller), telemetry.continuing(trace), suppress(NotFound):
            if deletion.file:
                request = DeleteDocumentRequest(
                    collection=deletion.collection,
                    document=deletion.file,
                    fence=deletion.fence,
                    walls=deletion.walls,
                )
                await self._vector_store.delete_document(request, timeout=RPC_SECONDS)
            else:
                await self._vector_store.delete_collection(
                    DeleteCollectionRequest(collection=deletion.collection), timeout=RPC_SECONDS
                )
        await self._deletions.confirm(deletion)
