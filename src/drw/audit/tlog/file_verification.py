"""Verification of a log's files: reads all entries, and compares them with the tiles and the signed checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.merkle import leaf_hash
from drw.audit.tlog.note import Checkpoint, InvalidNote, Verifier, WrongSignature
from drw.audit.tlog.tiles import CHECKPOINT, WIDTH, ReadFile, Tile, Tree, read_bundle, read_tile, tile_at


@dataclass(frozen=True, slots=True)
class Bundle:
    """Consecutive entries of the log."""

    start: int
    entries: list[bytes]


class FileVerification:
    """Verifies the files of a log in one pass; `earlier_note` is an earlier checkpoint that the log must extend.

    Raises:
        LogDamaged: the log has no checkpoint of the key, or does not extend the earlier one.
        InvalidNote: the earlier note is invalid.
    """

    def __init__(self, read: ReadFile, verifier: Verifier, earlier_note: str = "") -> None:
        self._read = read
        self.note, self.checkpoint = read_checkpoint(read, verifier)
        self._earlier = self._open_earlier(earlier_note, verifier) if earlier_note else None
        self._tree = Tree()

    def bundles(self) -> Iterator[Bundle]:
        """Yield all entries, each after it is compared with its tile; compare the root at the end.

        Raises:
            LogDamaged: the first problem.
        """
        size = self.checkpoint.size
        self._compare_earlier()
        for start in range(0, size, WIDTH):
            tile = tile_at(None, start // WIDTH, size)
            entries = read_bundle(self._read, tile)
            self._compare_leaves(tile, [leaf_hash(entry) for entry in entries])
            yield Bundle(start, entries)
        for tile, hashes in self._tree.partial_tiles():
            self._compare_tile(tile, hashes)
        if self._tree.root() != self.checkpoint.root:
            raise LogDamaged(f"the root over the {size} entries is not the one that the checkpoint signs")

    def _open_earlier(self, note: str, verifier: Verifier) -> Checkpoint:
        try:
            earlier = verifier.open(note)
        except WrongSignature as error:
            raise LogDamaged(f"the earlier checkpoint is not signed by the log's key {verifier}") from error
        if earlier.size > self.checkpoint.size:
            raise LogDamaged(f"the log has {self.checkpoint.size} records, and had {earlier.size} before")
        return earlier

    def _compare_leaves(self, bundle: Tile, leaves: list[bytes]) -> None:
        tile = Tile(0, bundle.index, bundle.width)
        for offset, (leaf, stored) in enumerate(zip(leaves, read_tile(self._read, tile), strict=True)):
            if leaf != stored:
                index = bundle.index * WIDTH + offset
                raise LogDamaged(f"record {index}: its entry in {bundle.path} has not the hash that {tile.path} has")
        # Split at the end of the earlier log, to compare its root.
        split = self._earlier.size - self._tree.size if self._earlier else len(leaves)
        for segment in (leaves[: max(0, split)], leaves[max(0, split) :]):
            for full, hashes in self._tree.append(segment):
                self._compare_tile(full, hashes)
            self._compare_earlier()

    def _compare_tile(self, tile: Tile, hashes: list[bytes]) -> None:
        for offset, (computed, stored) in enumerate(zip(hashes, read_tile(self._read, tile), strict=True)):
            if computed != stored:
                raise LogDamaged(f"{tile.path}: its hash {offset} does not follow from what is below it")

    def _compare_earlier(self) -> None:
        earlier = self._earlier
        if earlier and earlier.size == self._tree.size and earlier.root != self._tree.root():
            raise LogDamaged(f"the first {earlier.size} records are not those of the earlier checkpoint")


def read_checkpoint(read: ReadFile, verifier: Verifier) -> tuple[str, Checkpoint]:
    """Read the signed checkpoint of the log; return it as a note and parsed.

    Raises:
        LogDamaged: the checkpoint is missing, or signed with another key.
    """
    if (data := read(CHECKPOINT)) is None:
        raise LogDamaged("the checkpoint is missing")
    note = data.decode(errors="replace")
    try:
        return note, verifier.open(note)
    except (InvalidNote, WrongSignature) as error:
        raise LogDamaged(f"the checkpoint is not good: {error.message}") from error
