"""Files of a log in the layout of C2SP tlog-tiles: tiles of 256 hashes, bundles of 256 entries, and their paths.

https://c2sp.org/tlog-tiles. The path of a partial file contains the number of its hashes or entries. Files depend only
on the entries, so that writing a file again writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.merkle import HASH_BYTES, complete_root, root_of_peaks

WIDTH = 256
BITS = 8
CHECKPOINT = "checkpoint"

ReadFile = Callable[[str], bytes | None]
"""`read(path)` returns the content of a file, or None."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Position of a tile with hashes of subtrees over 256**level leaves; without a level, of a bundle of entries."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Path of the file."""
        return self.full_path if self.width == WIDTH else f"{self.full_path}.p/{self.width}"

    @property
    def full_path(self) -> str:
        """Path of the file once it is full."""
        level = "entries" if self.level is None else str(self.level)
        *high, low = f"{self.index:,}".split(",")
        return "/".join(["tile", level, *(f"x{part:0>3}" for part in high), f"{low:0>3}"])


def tile_at(level: int | None, index: int, size: int) -> Tile:
    """Return a tile with its width in a tree of this size."""
    hashes = size >> BITS * (level or 0)
    return Tile(level, index, min(WIDTH, hashes - index * WIDTH))


def read_tile(read: ReadFile, tile: Tile) -> list[bytes]:
    """Return the hashes of a tile.

    Raises:
        LogDamaged: the tile is missing, or has another length.
    """
    data, width = _read_full_or_partial(read, tile)
    if len(data) != width * HASH_BYTES:
        raise LogDamaged(f"{tile.path} has {len(data)} bytes, and not {width * HASH_BYTES}")
    return [data[i : i + HASH_BYTES] for i in range(0, tile.width * HASH_BYTES, HASH_BYTES)]


def read_bundle(read: ReadFile, tile: Tile) -> list[bytes]:
    """Return the entries of a bundle.

    Raises:
        LogDamaged: the bundle is missing, or does not have this number of entries.
    """
    data, width = _read_full_or_partial(read, tile)
    entries = _decode_bundle(data, tile)
    if len(entries) != width:
        raise LogDamaged(f"{tile.path} has {len(entries)} entries, and not {width}")
    return entries[: tile.width]


def _read_full_or_partial(read: ReadFile, tile: Tile) -> tuple[bytes, int]:
    if (data := read(tile.path)) is not None:
        return data, tile.width
    if (data := read(tile.full_path)) is not None:  # the full tile has replaced the partial one
        return data, WIDTH
    raise LogDamaged(f"{tile.path} is missing")


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Encode entries as a bundle."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def _decode_bundle(data: bytes, tile: Tile) -> list[bytes]:
    entries, offset = [], 0
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 2], "big")
        entry = data[offset + 2 : offset + 2 + length]
        if len(data) - offset < 2 or len(entry) < length:
            raise LogDamaged(f"{tile.path} ends in the middle of an entry")
        entries.append(entry)
        offset += 2 + length
    return entries


class Tree:
    """Growing tree, represented by its right edge: for each level, the hashes of the tile that is not full."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[list[bytes]] = [[]]

    @classmethod
    def load(cls, read: ReadFile, size: int) -> Tree:
        """Load the tree of this size from its tiles."""
        tree = cls()
        tree.size = size
        tree._edge = [
            read_tile(read, Tile(level, *divmod(hashes, WIDTH))) if hashes % WIDTH else []
            for level, hashes in enumerate(_hashes_by_level(size))
        ]
        return tree

    def append(self, leaves: Sequence[bytes]) -> Iterator[tuple[Tile, list[bytes]]]:
        """Append leaf hashes; yield each tile that they fill. Exhaust the iterator before other calls."""
        for leaf in leaves:
            index, self.size = self.size // WIDTH, self.size + 1
            level, node = 0, leaf
            self._edge[0].append(node)
            while len(self._edge[level]) == WIDTH:
                full, self._edge[level] = self._edge[level], []
                yield Tile(level, index), full
                level, index, node = level + 1, index // WIDTH, complete_root(full)
                if level == len(self._edge):
                    self._edge.append([])
                self._edge[level].append(node)

    def partial_tiles(self) -> list[tuple[Tile, list[bytes]]]:
        """Return the tiles that are not full yet."""
        return [
            (Tile(level, (self.size >> BITS * level) // WIDTH, len(hashes)), hashes)
            for level, hashes in enumerate(self._edge)
            if hashes
        ]

    def root(self) -> bytes:
        """Return the root of the tree."""
        return root_of_peaks([peak for hashes in reversed(self._edge) for peak in _peaks(hashes)])


class TiledTree:
    """Tree stored in tiles: returns the hash of any complete subtree."""

    def __init__(self, read: ReadFile, size: int) -> None:
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
    offset = 0
    for bit in reversed(range(BITS)):
        if len(hashes) & 1 << bit:
            yield complete_root(hashes[offset : offset + (1 << bit)])
            offset += 1 << bit
