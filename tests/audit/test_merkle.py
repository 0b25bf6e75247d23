"""Merkle tree of RFC 6962: published roots, valid and tampered proofs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drw.audit.tlog.merkle import (
    EMPTY_ROOT,
    complete_root,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from drw.audit.tlog.tiles import Tree

# The leaves and roots with which Certificate Transparency implementations test themselves.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MAX_LEAVES = 300


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(i).encode()) for i in range(count)]


ALL_LEAVES = leaves(MAX_LEAVES)


def subtree(level: int, index: int) -> bytes:
    return complete_root(ALL_LEAVES[index << level : (index + 1) << level])


def root_by_definition(hashes: list[bytes]) -> bytes:
    """Return the root by the definition in RFC 6962, section 2.1."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else EMPTY_ROOT
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(root_by_definition(hashes[:split]), root_by_definition(hashes[split:]))


@pytest.mark.parametrize("size", range(9))
def test_roots_equal_those_of_certificate_transparency(size: int) -> None:
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES[:size]]
    tree = Tree()
    assert list(tree.append(hashes)) == []
    assert tree.root().hex() == ROOTS[size]
    assert tree_root(lambda level, i: complete_root(hashes[i << level : (i + 1) << level]), size).hex() == ROOTS[size]


def test_every_size_has_the_root_of_the_definition() -> None:
    tree = Tree()
    for size in range(MAX_LEAVES + 1):
        assert tree.root() == tree_root(subtree, size) == root_by_definition(ALL_LEAVES[:size])
        if size < MAX_LEAVES:
            list(tree.append([ALL_LEAVES[size]]))


sizes = st.integers(1, MAX_LEAVES)


@given(st.data(), sizes)
def test_an_inclusion_proof_verifies_only_for_its_leaf(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion_proof(subtree, index, size), tree_root(subtree, size)
    assert verify_inclusion(ALL_LEAVES[index], index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"forged"), index, size, proof, root)
    assert not verify_inclusion(ALL_LEAVES[index], index, size, proof, leaf_hash(b"another root"))
    assert not verify_inclusion(ALL_LEAVES[index], index, size, [*proof, root], root)
    for other in {(index + 1) % size, index ^ 1, size, -1} - {index}:
        assert not verify_inclusion(ALL_LEAVES[index], other, size, proof, root)
    for invalid_proof in tampered(data, proof):
        assert not verify_inclusion(ALL_LEAVES[index], index, size, invalid_proof, root)


@given(st.data(), sizes)
def test_a_consistency_proof_verifies_only_for_its_trees(data: st.DataObject, new: int) -> None:
    old = data.draw(st.integers(0, new))
    proof = consistency_proof(subtree, old, new)
    old_root, new_root = tree_root(subtree, old), tree_root(subtree, new)
    assert verify_consistency(old, new, old_root, new_root, proof)
    assert not verify_consistency(old, new, leaf_hash(b"another root"), new_root, proof)
    assert not verify_consistency(old, new, old_root, new_root, [*proof, new_root])
    if old:
        assert not verify_consistency(old, new, old_root, leaf_hash(b"another root"), proof)
    for invalid_proof in tampered(data, proof):
        assert not verify_consistency(old, new, old_root, new_root, invalid_proof)


def tampered(data: st.DataObject, proof: list[bytes]) -> list[list[bytes]]:
    if not proof:
        return []
    position = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[position], "big") ^ 1 << bit).to_bytes(32, "big")
    return [[*proof[:position], flipped, *proof[position + 1 :]], proof[:position] + proof[position + 1 :]]
