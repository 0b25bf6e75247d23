"""Sequencer: moves records from the inbox into the log, in two crash-safe steps.

First, records get their index in one transaction, which fixes their order. Then their tiles are written, and a
checkpoint is signed. The second step is deterministic: after an interruption it writes the same bytes, so that two
processes cannot fork the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from drw.audit.log import records
from drw.audit.log.folder import Folder
from drw.audit.log.store import Store
from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.file_verification import read_checkpoint
from drw.audit.tlog.merkle import consistency_proof, leaf_hash, verify_consistency
from drw.audit.tlog.note import Checkpoint, Signer
from drw.audit.tlog.tiles import CHECKPOINT, WIDTH, Tile, TiledTree, Tree, encode_bundle, read_bundle, tile_at
from drw.kernel.storage.database import Connection

BATCH = 2_048
"""Maximum records that get an index, or are signed, in one transaction."""


class Sequencer:
    """Writes the records of the inbox to the log."""

    def __init__(self, store: Store, folder: Folder, signer: Signer) -> None:
        self._store = store
        self._folder = folder
        self._signer = signer
        self._assigning = asyncio.Lock()
        self._signing = asyncio.Lock()

    async def assign_indexes(self) -> None:
        """Assign an index to every record that is committed now."""
        async with self._assigning:
            while (await self._store.state()).pending and await self._store.assign_indexes(BATCH) == BATCH:
                pass

    async def sign(self) -> tuple[str, Checkpoint]:
        """Return a signed checkpoint, as a note and parsed, that covers every record that is committed now.

        Raises:
            LogDamaged: tiles, checkpoint and database are inconsistent. A damaged log is not signed.
        """
        await self.assign_indexes()
        expected = (await self._store.state()).records
        async with self._signing:
            while True:
                state = await self._store.state()
                note, checkpoint = await asyncio.to_thread(self.last_checkpoint)
                if expected <= checkpoint.size == state.signed:
                    return note, checkpoint
                await self._sign_batch()

    async def begin(self) -> None:
        """Sign the empty log if there is no checkpoint yet."""
        async with self._store.lock() as connection:
            if (await self._store.state(connection)).signed < 0:
                empty = self._signer.sign(0, Tree().root())
                self._folder.put_once(CHECKPOINT, empty.encode())
                await self._store.add_checkpoint(connection, 0, empty)

    def last_checkpoint(self) -> tuple[str, Checkpoint]:
        """Return the newest signed checkpoint, as a note and parsed."""
        return read_checkpoint(self._folder.read, self._signer.verifier)

    async def _sign_batch(self) -> None:
        async with self._store.lock() as connection:
            _, last = await asyncio.to_thread(self.last_checkpoint)
            count = min(BATCH, await self._count_unsigned(connection, last))
            rows = await self._store.rows(last.size, last.size + count, connection)
            entries = _unchanged_entries(rows, last.size, count)
            size, note = await asyncio.to_thread(self._write_locked, last, entries)
            await self._store.add_checkpoint(connection, size, note)

    async def _count_unsigned(self, connection: Connection, last: Checkpoint) -> int:
        """Return the number of records after the last checkpoint, which must match the database."""
        state = await self._store.state(connection)
        if last.size < state.signed:
            raise LogDamaged(f"the folder's checkpoint is over {last.size} records; one over {state.signed} was signed")
        if last.size > state.records:
            raise LogDamaged(f"the checkpoint is over {last.size} records, and the database has {state.records}")
        if last.size:
            rows = await self._store.rows(last.size - 1, last.size, connection)
            leaf = await asyncio.to_thread(TiledTree(self._folder.read, last.size).subtree, 0, last.size - 1)
            if not rows or rows[0]["leaf_hash"] != leaf:
                raise LogDamaged(f"record {last.size - 1} in the database is not the one that was signed")
        return state.records - last.size

    def _write_locked(self, last: Checkpoint, entries: Sequence[bytes]) -> tuple[int, str]:
        # The lock of the database is lost with its connection, or when a request is cancelled. The lock of the
        # folder is held until all files are written, so that no older checkpoint replaces a newer one.
        with self._folder.locked():
            note, now = self.last_checkpoint()
            return self._write_tiles(last, entries) if now == last else (now.size, note)

    def _write_tiles(self, last: Checkpoint, entries: Sequence[bytes]) -> tuple[int, str]:
        tree = Tree.load(self._folder.read, last.size)
        if tree.root() != last.root:
            raise LogDamaged(f"the tiles of the {last.size} records are not those that the checkpoint signs")
        bundles = self._bundles(last.size, entries)
        tiles = [*tree.append([leaf_hash(entry) for entry in entries]), *tree.partial_tiles()]
        for tile, content in bundles:
            self._folder.put_once(tile.path, encode_bundle(content))
        for tile, hashes in tiles:
            self._folder.put_once(tile.path, b"".join(hashes))
        note = self._sign_verified(last, tree)
        for tile, _ in [*bundles, *tiles]:
            if tile.width == WIDTH:
                self._folder.remove_partial(tile.full_path)
        return tree.size, note

    def _bundles(self, size: int, entries: Sequence[bytes]) -> list[tuple[Tile, Sequence[bytes]]]:
        index, present = divmod(size, WIDTH)
        before = read_bundle(self._folder.read, Tile(None, index, present)) if present else []
        content = [*before, *entries]
        end = size + len(entries)
        starts = range(0, len(content), WIDTH) if entries else ()
        return [(tile_at(None, index + at // WIDTH, end), content[at : at + WIDTH]) for at in starts]

    def _sign_verified(self, last: Checkpoint, tree: Tree) -> str:
        # The proof is computed from the files, because readers verify the files.
        proof = consistency_proof(TiledTree(self._folder.read, tree.size).subtree, last.size, tree.size)
        if not verify_consistency(last.size, tree.size, last.root, tree.root(), proof):
            raise LogDamaged(f"the tiles of {tree.size} records do not extend those of {last.size}")
        note = self._signer.sign(tree.size, tree.root())
        self._folder.replace(CHECKPOINT, note.encode())
        return note


def _unchanged_entries(rows: Sequence[dict[str, Any]], start: int, count: int) -> list[bytes]:
    by_index = {row["index"]: row for row in rows}
    entries = []
    for index in range(start, start + count):
        row = by_index.get(index)
        if row is None or records.difference(row, entry := row["entry"].encode()):
            raise LogDamaged(f"record {index} in the database was removed or changed before it was signed")
        entries.append(entry)
    return entries
