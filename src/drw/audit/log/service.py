"""Stores audit records in an append-only Merkle tree and proves that they are unchanged."""

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
from drw.audit.log.folder import Folder
from drw.audit.log.sequencer import Sequencer
from drw.audit.log.settings import Settings
from drw.audit.log.store import Store
from drw.audit.log.verification import Verification
from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.merkle import inclusion_proof, is_included
from drw.audit.tlog.note import Checkpoint, Signer
from drw.audit.tlog.tiles import TiledTree
from drw.audit.verify import VERIFIER_KEY
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.tenancy import Owner

logger = logging.getLogger(__name__)

UNSIGNED = Gauge("drw_audit_unsigned_records", "Audit records that no signed checkpoint covers yet.")
OLDEST = Gauge("drw_audit_oldest_unsigned_seconds", "Age of the oldest audit record that is not signed yet.")
DAMAGED = Gauge("drw_audit_damaged", "1: the log is not what was once written; see `drw audit verify`.")

CHANNEL = "audit_inbox"
PAGE_SIZE = 50
MAX_INDEX = (1 << 63) - 1


class RecordNotFound(NotFound):
    """There is no record with this index, or it is another desk's."""


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
        desk = _desk_to_list(principal, request.desk)
        filters = {field: getattr(request, field) for field in ("action", "actor", "resource", "outcome")}
        size = request.page_size or PAGE_SIZE
        before = _before(request.page_token)
        await self.sequencer.take()
        rows = await self._store.list(size + 1, before, principal.walls, org=principal.org, desk=desk, **filters)
        token = str(rows[size - 1]["index"]) if len(rows) > size else ""
        return pb.ListRecordsResponse(records=map(records.message, rows[:size]), next_page_token=token)

    async def get_checkpoint(self, request: pb.GetCheckpointRequest, /) -> pb.Checkpoint:
        """GetCheckpoint returns a signed checkpoint that covers every acknowledged record."""
        note, checkpoint = await self.sequencer.sign()
        return self._answer(note, checkpoint)

    async def get_proof(self, request: pb.GetProofRequest, /) -> pb.Proof:
        """GetProof proves that a record is in the tree of the newest checkpoint."""
        principal = context.caller()
        index = request.index
        note, checkpoint = await self.sequencer.sign()
        row = await self._store.one(index, principal.walls) if 0 <= index < checkpoint.size else None
        if row is None or not _may_see(principal, row["org"], row["desk"]):
            raise RecordNotFound(f"there is no record {index} that this key may see")
        entry = row["entry"]
        leaf = row["leaf_hash"]
        hashes = await asyncio.to_thread(self._proof, leaf, index, checkpoint)
        encoded = [base64.b64encode(h).decode() for h in hashes]
        return pb.Proof(index=index, entry=entry, hashes=encoded, checkpoint=self._answer(note, checkpoint))

    async def verify(self, request: pb.VerifyRequest, /) -> pb.Verification:
        """Verify reads the whole log and compares it with its checkpoint and the database."""
        answer = pb.Verification()
        async with self._verifying:
            try:
                note, checkpoint = await self.sequencer.sign()
                answer.checkpoint.CopyFrom(self._answer(note, checkpoint))
                work = await Verification.begin(self._store, self._folder.read, self._verifier, request.earlier_note)
                try:
                    await work.run()
                finally:
                    answer.records = work.count
            except LogDamaged as error:
                answer.problem = error.message
        answer.ok = not answer.problem
        return answer

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
        """Bring the metrics up to date."""
        count, seconds = await self._store.backlog()
        UNSIGNED.set(count)
        OLDEST.set(seconds)

    async def sign_quietly(self) -> None:
        """Sign new records in the background; damage is logged and shown in the status."""
        try:
            await self.sequencer.sign()
        except LogDamaged as error:
            logger.error("the audit log is damaged: %s", error.message)

    def _proof(self, leaf: bytes, index: int, checkpoint: Checkpoint) -> Sequence[bytes]:
        tree = TiledTree(self._folder.read, checkpoint.size)
        proof = inclusion_proof(tree.subtree, index, checkpoint.size)
        if not is_included(leaf, index, checkpoint.size, proof, checkpoint.root):
            raise LogDamaged(f"record {index} in the database is not the one in the log; `drw audit verify` says more")
        return proof

    def _answer(self, note: str, checkpoint: Checkpoint) -> pb.Checkpoint:
        return pb.Checkpoint(size=checkpoint.size, note=note, verifier_key=str(self._verifier))


def _may_see(principal: context.Principal, org: str, desk: str) -> bool:
    return principal.org == org and tenancy.may_change(Owner(org, desk), principal)


def _desk_to_list(principal: context.Principal, requested: str) -> str | None:
    if requested:
        tenancy.check_change(Owner(principal.org, requested))
    return requested or (None if tenancy.whole_org(principal.org) else principal.desk)


def _before(token: str) -> int:
    if not token:
        return MAX_INDEX
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest(f"{token[:40]!r} is not a page token that this service gave", param="page_token")
    return int(token)


async def build(scope: ServiceContext) -> Log:
    """Build the service from the configuration."""
    settings = scope.settings(Settings)
    database = await scope.database()
    store = Store(database)
    folder = Folder(scope.folder / "tlog")
    used = (await store.state()).signed >= 0
    signer = key.load_or_make(scope.folder / "signing.key", settings.origin, used=used)
    folder.put_once(VERIFIER_KEY, f"{signer.verifier}\n".encode())
    log = Log(store, folder, signer)
    await log.sequencer.begin()

    async def follow() -> None:
        async with aclosing(database.notifications(CHANNEL)) as notifications:
            async for _ in notifications:
                await asyncio.sleep(settings.gather_seconds)
                await log.sign_quietly()

    scope.background(follow)
    scope.describe(log.status)
    scope.measure(log.measure)
    return log
