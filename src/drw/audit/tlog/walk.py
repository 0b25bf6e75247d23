"""Reads a log from its first entry to its checkpoint, and compares everything on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.merkle import leaf_hash
from drw.audit.tlog.note import Checkpoint, NotANote, Verifier, WrongSignature
from drw.audit.tlog.tiles import CHECKPOINT, WIDTH, Read, Tile, Tree, read_bundle, read_tile, tile_at


@dataclass(frozen=True, slots=True)
class Bundle:
    """Consecutive entries of the log."""

    start: int
    entries: list[bytes]


class LogWalk:
    """One pass over a log; `earlier_note` is an earlier checkpoint.

    Raises:
        LogDamaged: the log has no checkpoint of the key, or does not extend the earlier one.
        NotANote: the earlier note is not one.

    """

    def __init__(self, read: Read, verifier: Verifier, earlier_note: str = "") -> None:
        self._read = read
        self.note, self.checkpoint = read_checkpoint(read, verifier)
        self._earlier = self._opened(earlier_note, verifier) if earlier_note else None
        self._tree = Tree()

    def bundles(self) -> Iterator[Bundle]:
        """Yield all entries after comparing each with the tiles, and compare the root at the end.

        Raises:
            LogDamaged: the first problem found.
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

    def _opened(self, note: str, verifier: Verifier) -> Checkpoint:
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
        # Cut where the earlier log ended, to see its root.
        cut = self._earlier.size - self._tree.size if self._earlier else len(leaves)
        for part in (leaves[: max(0, cut)], leaves[max(0, cut) :]):
            for full, hashes in self._tree.append(part):
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


def read_checkpoint(read: Read, verifier: Verifier) -> tuple[str, Checkpoint]:
    """Return the note and the checkpoint of the log.

    Raises:
        LogDamaged: the checkpoint is missing, or signed with another key.
    """
    if (data := read(CHECKPOINT)) is None:
        raise LogDamaged("the checkpoint is missing")
    note = data.decode(errors="replace")
    try:
        return note, verifier.open(note)
    except (NotANote, WrongSignature) as error:
        raise LogDamaged(f"the checkpoint is not good: {error.message}") from error
