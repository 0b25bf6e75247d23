"""Merkle tree of RFC 6962: hashes, inclusion and consistency proofs, and their verification.

A tree is a function that returns the hash of a complete subtree, independent of its storage. Proofs are verified as in
RFC 9162, sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Subtree = Callable[[int, int], bytes]
"""`subtree(level, index)`: the hash over the leaves [index << level, (index + 1) << level)."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry as a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two children."""
    return sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over a power of two of hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """Return the root over the peaks: roots of adjacent complete subtrees, largest first."""
    return reduce(lambda right, left: node_hash(left, right), reversed(peaks)) if peaks else EMPTY_ROOT


def tree_root(subtree: Subtree, size: int) -> bytes:
    """Return the root of the tree over the first `size` leaves."""
    return _range_hash(subtree, 0, size) if size else EMPTY_ROOT


def inclusion_proof(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """Return the audit path of a leaf in the tree over the first `size` leaves, from the leaf to the root."""
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split_point(end - start)
        if index < middle:
            path.append(_range_hash(subtree, middle, end))
            end = middle
        else:
            path.append(_range_hash(subtree, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(subtree: Subtree, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree over `new` leaves extends the tree over the first `old` leaves."""
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end = 0, new
    while old != end:
        middle = start + _split_point(end - start)
        if old <= middle:
            path.append(_range_hash(subtree, middle, end))
            end = middle
        else:
            path.append(_range_hash(subtree, start, middle))
            start = middle
    if start:  # otherwise the old tree is a complete subtree, whose hash the verifier has
        path.append(_range_hash(subtree, start, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether the proof shows that the leaf is at `index` of the tree with this root."""
    if not 0 <= index < size:
        return False
    position, last_index, computed = index, size - 1, leaf
    for sibling in proof:
        if last_index == 0:
            return False
        if position & 1 or position == last_index:
            computed = node_hash(sibling, computed)
            position, last_index = _skip_right_edge(position, last_index)
        else:
            computed = node_hash(computed, sibling)
        position, last_index = position >> 1, last_index >> 1
    return last_index == 0 and computed == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether the proof shows that the tree with the new root extends the tree with the old root."""
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if not 0 < old < new or not proof:
        return False
    first, *rest = [old_root, *proof] if old & (old - 1) == 0 else proof
    position, last_index = old - 1, new - 1
    while position & 1:
        position, last_index = position >> 1, last_index >> 1
    computed_old = computed_new = first
    for sibling in rest:
        if last_index == 0:
            return False
        if position & 1 or position == last_index:
            computed_old, computed_new = node_hash(sibling, computed_old), node_hash(sibling, computed_new)
            position, last_index = _skip_right_edge(position, last_index)
        else:
            computed_new = node_hash(computed_new, sibling)
        position, last_index = position >> 1, last_index >> 1
    return last_index == 0 and computed_old == old_root and computed_new == new_root


def _skip_right_edge(position: int, last_index: int) -> tuple[int, int]:
    # A node at the right edge without a sibling moves up unchanged.
    while position and not position & 1:
        position, last_index = position >> 1, last_index >> 1
    return position, last_index


def _range_hash(subtree: Subtree, start: int, end: int) -> bytes:
    count = end - start
    if count & (count - 1) == 0:
        return subtree(count.bit_length() - 1, start // count)
    middle = start + _split_point(count)
    return node_hash(_range_hash(subtree, start, middle), _range_hash(subtree, middle, end))


def _split_point(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1
