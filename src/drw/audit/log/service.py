"""Service of the audit log: stores records in an append-only Merkle tree, and proves that they are unchanged."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from contextlib import aclosing

from prometheus_client import Gauge

from drw.api.audit.v1 import log_pb2 as pb
from drw.api.audit.v1 import log_rpc as contract
from drw.audit.log import key, records
from drw.audit.log.database_verification import DatabaseVerification
from drw.audit.log.folder import Folder
from drw.audit.log.sequencer import Sequencer
from drw.audit.log.settings import Settings
from drw.audit.log.store import Store
from drw.audit.offline import VERIFIER_KEY
from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.file_verification import FileVerification
from drw.audit.tlog.merkle import inclusion_proof, verify_inclusion
from drw.audit.tlog.note import Checkpoint, Signer
from drw.audit.tlog.tiles import TiledTree
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.tenancy import Owner

logger = logging.getLogger(__name__)

UNSIGNED = Gauge("drw_audit_unsigned_records", "Audit records that no signed checkpoint covers yet.")
OLDEST = Gauge("drw_audit_oldest_unsigned_seconds", "Age of the oldest audit record that is not signed yet.")
DAMAGED = Gauge("drw_audit_damaged", "1: the audit log is damaged; see `drw audit verify`.")

CHANNEL = "audit_inbox"
PAGE_SIZE = 50
MAX_INDEX = (1 << 63) - 1


class RecordNotFound(NotFound):
    """There is no record with this index that the caller can see."""


class Log(contract.Log):
    """Serves `drw.api.audit.v1.Log`."""

    def __init__(self, store: Store, folder: Folder, signer: Signer) -> None:
        self._store = store
        self._folder = folder
        self._verifier = signer.verifier
        self._verifying = asyncio.Lock()
        self.sequencer = Sequencer(store, folder, signer)

    async def list_records(self, request: pb.ListRecordsRequest, /) -> pb.ListRecordsResponse:
        """ListRecords lists records of the caller's desk, newest first; with "org:admin", of the org."""
        principal = context.caller()
        desk = _listed_desk(principal, request.desk)
        filters = {field: getattr(request, field) for field in ("action", "actor", "resource", "outcome")}
        size = request.page_size or PAGE_SIZE
        before = _parse_page_token(request.page_token)
        await self.sequencer.assign_indexes()
        rows = await self._store.list(size + 1, before, principal.walls, org=principal.org, desk=desk, **filters)
        token = str(rows[size - 1]["index"]) if len(rows) > size else ""
        return pb.ListRecordsResponse(records=map(records.message, rows[:size]), next_page_token=token)

    async def get_checkpoint(self, request: pb.GetCheckpointRequest, /) -> pb.Checkpoint:
        """GetCheckpoint returns a signed checkpoint that covers every acknowledged record."""
        note, checkpoint = await self.sequencer.sign()
        return self._checkpoint_message(note, checkpoint)

    async def get_proof(self, request: pb.GetProofRequest, /) -> pb.Proof:
        """GetProof proves that a record is in the tree of the newest checkpoint."""
        principal = context.caller()
        index = request.index
        note, checkpoint = await self.sequencer.sign()
        row = await self._store.one(index, principal.walls) if 0 <= index < checkpoint.size else None
        if row is None or row["org"] != principal.org or not tenancy.may_change(Owner(row["org"], row["desk"])):
            raise RecordNotFound(f"there is no record {index} that this key may see")
        entry = row["entry"]
        leaf = row["leaf_hash"]
        hashes = await asyncio.to_thread(self._verified_proof, leaf, index, checkpoint)
        encoded = [base64.b64encode(h).decode() for h in hashes]
        return pb.Proof(index=index, entry=entry, hashes=encoded, checkpoint=self._checkpoint_message(note, checkpoint))

    async def verify(self, request: pb.VerifyRequest, /) -> pb.Verification:
        """Verify reads the whole log and compares it with its checkpoint and the database."""
        result = pb.Verification()
        async with self._verifying:
            try:
                note, checkpoint = await self.sequencer.sign()
                result.checkpoint.CopyFrom(self._checkpoint_message(note, checkpoint))
                files = await asyncio.to_thread(
                    FileVerification, self._folder.read, self._verifier, request.earlier_note
                )
                verification = DatabaseVerification(self._store, files)
                try:
                    await verification.run()
                finally:
                    result.records = verification.count
            except LogDamaged as error:
                result.problem = error.message
        result.ok = not result.problem
        return result

    async def status(self) -> str:
        """Return the number of signed records; a damaged log is an error."""
        try:
            _, checkpoint = await self.sequencer.sign()
        except LogDamaged:
            DAMAGED.set(1)
            raise
        DAMAGED.set(0)
        return f"{checkpoint.size} records"

    async def measure(self) -> None:
        """Update the metrics."""
        count, seconds = await self._store.backlog()
        UNSIGNED.set(count)
        OLDEST.set(seconds)

    async def sign_in_background(self) -> None:
        """Sign new records in the background; damage is logged and shown in the status."""
        try:
            await self.sequencer.sign()
        except LogDamaged as error:
            logger.error("the audit log is damaged: %s", error.message)

    def _verified_proof(self, leaf: bytes, index: int, checkpoint: Checkpoint) -> Sequence[bytes]:
        tree = TiledTree(self._folder.read, checkpoint.size)
        proof = inclusion_proof(tree.subtree, index, checkpoint.size)
        if not verify_inclusion(leaf, index, checkpoint.size, proof, checkpoint.root):
            raise LogDamaged(f"record {index} in the database is not the one in the log; `drw audit verify` says more")
        return proof

    def _checkpoint_message(self, note: str, checkpoint: Checkpoint) -> pb.Checkpoint:
        return pb.Checkpoint(size=checkpoint.size, note=note, verifier_key=str(self._verifier))


def _listed_desk(principal: context.Principal, requested: str) -> str | None:
    if requested:
        tenancy.check_change(Owner(principal.org, requested))
    return requested or (None if tenancy.may_act_for_org(principal.org) else principal.desk)


def _parse_page_token(token: str) -> int:
    if not token:
        return MAX_INDEX
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest(f"{token[:40]!r} is not a page token of this service", param="page_token")
    return int(token)


async def build(scope: ServiceContext) -> Log:
    """Build the service from the configuration."""
    settings = scope.settings(Settings)
    database = await scope.database()
    store = Store(database)
    folder = Folder(scope.folder / "tlog")
    has_checkpoints = (await store.state()).signed >= 0
    signer = key.load_or_create(scope.folder / "signing.key", settings.origin, has_checkpoints=has_checkpoints)
    folder.put_once(VERIFIER_KEY, f"{signer.verifier}\n".encode())
    log = Log(store, folder, signer)
    await log.sequencer.begin()

    async def follow() -> None:
        async with aclosing(database.notifications(CHANNEL)) as notifications:
            async for _ in notifications:
                await asyncio.sleep(settings.gather_seconds)
                await log.sign_in_background()

    scope.background(follow)
    scope.describe(log.status)
    scope.on_scrape(log.measure)
    return log
