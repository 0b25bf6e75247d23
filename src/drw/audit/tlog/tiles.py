"""Files of a log in C2SP tlog-tiles: tiles of 256 hashes, bundles of 256 entries, and their paths.

https://c2sp.org/tlog-tiles. The path of a partial file contains the number of its hashes or entries. Files depend on
the entries only, so rewriting a file writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.merkle import HASH_BYTES, complete_root, folded

WIDTH = 256
BITS = 8
MAX_ENTRY_BYTES = 65_535
CHECKPOINT = "checkpoint"

Read = Callable[[str], bytes | None]
"""`read(path)` returns the content of a file, or None."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The place of a tile: hashes of subtrees over 256**level leaves; or, without a level, a bundle of entries."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """The path of its file."""
        return self.full_path if self.width == WIDTH else f"{self.full_path}.p/{self.width}"

    @property
    def full_path(self) -> str:
        """The path it has when it is full."""
        level = "entries" if self.level is None else str(self.level)
        *high, low = f"{self.index:,}".split(",")
        return "/".join(["tile", level, *(f"x{part:0>3}" for part in high), f"{low:0>3}"])


def tile_at(level: int | None, index: int, size: int) -> Tile:
    """Return the tile as it is in a tree of this size."""
    hashes = size >> BITS * (level or 0)
    return Tile(level, index, min(WIDTH, hashes - index * WIDTH))


def read_tile(read: Read, tile: Tile) -> list[bytes]:
    """Return the hashes of a tile.

    Raises:
        LogDamaged: it is not there, or has another length.
    """
    data, width = _read_either(read, tile)
    if len(data) != width * HASH_BYTES:
        raise LogDamaged(f"{tile.path} has {len(data)} bytes, and not {width * HASH_BYTES}")
    return [data[i : i + HASH_BYTES] for i in range(0, tile.width * HASH_BYTES, HASH_BYTES)]


def read_bundle(read: Read, tile: Tile) -> list[bytes]:
    """Return the entries of a bundle.

    Raises:
        LogDamaged: it is not there, or is not a bundle of that many entries.
    """
    data, width = _read_either(read, tile)
    entries = _unbundled(data, tile)
    if len(entries) != width:
        raise LogDamaged(f"{tile.path} has {len(entries)} entries, and not {width}")
    return entries[: tile.width]


def _read_either(read: Read, tile: Tile) -> tuple[bytes, int]:
    if (data := read(tile.path)) is not None:
        return data, tile.width
    if (data := read(tile.full_path)) is not None:  # which a partial tile gives way to
        return data, WIDTH
    raise LogDamaged(f"{tile.path} is missing")


def bundled(entries: Sequence[bytes]) -> bytes:
    """Return entries in the format of a bundle."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def _unbundled(data: bytes, tile: Tile) -> list[bytes]:
    entries, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        entry = data[at + 2 : at + 2 + length]
        if len(data) - at < 2 or len(entry) < length:
            raise LogDamaged(f"{tile.path} ends in the middle of an entry")
        entries.append(entry)
        at += 2 + length
    return entries


class Tree:
    """The right edge of a growing tree: for each level the hashes of the tile that is not full yet."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[list[bytes]] = [[]]

    @classmethod
    def load(cls, read: Read, size: int) -> Tree:
        """Return the tree of this size from its tiles."""
        tree = cls()
        tree.size = size
        tree._edge = [
            read_tile(read, Tile(level, *divmod(hashes, WIDTH))) if hashes % WIDTH else []
            for level, hashes in enumerate(_hashes_by_level(size))
        ]
        return tree

    @property
    def last_leaf(self) -> bytes | None:
        """The last leaf hash, where its tile is not full."""
        return self._edge[0][-1] if self._edge[0] else None

    def append(self, leaves: Sequence[bytes]) -> Iterator[tuple[Tile, list[bytes]]]:
        """Add leaf hashes; yields every tile that they fill. Exhaust the iterator before other calls."""
        for leaf in leaves:
            index, self.size = self.size // WIDTH, self.size + 1
            level, rising = 0, leaf
            self._edge[0].append(rising)
            while len(self._edge[level]) == WIDTH:
                full, self._edge[level] = self._edge[level], []
                yield Tile(level, index), full
                level, index, rising = level + 1, index // WIDTH, complete_root(full)
                if level == len(self._edge):
                    self._edge.append([])
                self._edge[level].append(rising)

    def partial_tiles(self) -> list[tuple[Tile, list[bytes]]]:
        """Return the tiles that are not full yet."""
        return [
            (Tile(level, (self.size >> BITS * level) // WIDTH, len(hashes)), hashes)
            for level, hashes in enumerate(self._edge)
            if hashes
        ]

    def root(self) -> bytes:
        """Return the root of the tree."""
        return folded([peak for hashes in reversed(self._edge) for peak in _peaks(hashes)])


class TiledTree:
    """A tree that lies in tiles: the hash of any complete subtree of it."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash over the leaves [index << level, (index + 1) << level)."""
        tile_level, rest = divmod(level, BITS)
        tile_index, offset = divmod(index << rest, WIDTH)
        hashes = self._hashes(tile_level, tile_index)
        return complete_root(hashes[offset : offset + (1 << rest)])

    def _hashes(self, level: int, index: int) -> list[bytes]:
        if (level, index) not in self._tiles:
            self._tiles[level, index] = read_tile(self._read, tile_at(level, index, self._size))
        return self._tiles[level, index]


def _hashes_by_level(size: int) -> Iterator[int]:
    yield size
    while size := size // WIDTH:
        yield size


def _peaks(hashes: Sequence[bytes]) -> Iterator[bytes]:
    at = 0
    for bit in reversed(range(BITS)):
        if len(hashes) & 1 << bit:
            yield complete_root(hashes[at : at + (1 << bit)])
            at += 1 << bit
