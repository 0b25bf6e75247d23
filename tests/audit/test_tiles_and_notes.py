"""The layout of C2SP tlog-tiles and the form of its notes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drw.audit.tlog.damage import LogDamaged
from drw.audit.tlog.merkle import leaf_hash
from drw.audit.tlog.note import Checkpoint, InvalidNote, Signer, Verifier, WrongSignature
from drw.audit.tlog.tiles import Tile, TiledTree, Tree, encode_bundle, read_bundle, read_tile, tile_at


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 5, 3), "tile/1/005.p/3"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(3, 1000), "tile/3/x001/000"),
        (Tile(None, 273, 112), "tile/entries/273.p/112"),
    ],
)
def test_paths_are_those_of_the_specification(tile: Tile, path: str) -> None:
    assert tile.path == path


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    # "a tree of size 70,000 has 273 full and one partial (112) tiles on level 0, 1 full and 1 partial (17) on level 1,
    # and a partial one (1) on level 2"
    tree = Tree()
    full = [tile for tile, _ in tree.append([bytes(32)] * 70_000)]
    assert {(t.level, t.index) for t in full} == {(0, i) for i in range(273)} | {(1, 0)}
    assert [tile.path for tile, _ in tree.partial_tiles()] == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=6))
def test_tiles_do_not_depend_on_the_steps_of_growth(steps: list[int]) -> None:
    leaves = [leaf_hash(b"%d" % i) for i in range(sum(steps))]
    files: dict[str, bytes] = {}
    size = 0
    for step in steps:
        tree = Tree.load(files.get, size)
        size += step
        for tile, hashes in [*tree.append(leaves[size - step : size]), *tree.partial_tiles()]:
            assert files.setdefault(tile.path, b"".join(hashes)) == b"".join(hashes)
    complete_tree = Tree()
    expected = {t.path: b"".join(h) for t, h in [*complete_tree.append(leaves), *complete_tree.partial_tiles()]}
    assert expected.items() <= files.items()
    assert Tree.load(files.get, size).root() == complete_tree.root()
    for index in range(0, size, 97):
        assert TiledTree(files.get, size).subtree(0, index) == leaves[index]


def test_a_full_file_serves_reads_of_the_partial_file() -> None:
    hashes = [leaf_hash(b"%d" % i) for i in range(256)]
    entries = [b"%d" % i for i in range(256)]
    files = {"tile/0/000": b"".join(hashes), "tile/entries/000": encode_bundle(entries)}
    assert read_tile(files.get, tile_at(0, 0, 100)) == hashes[:100]
    assert read_bundle(files.get, tile_at(None, 0, 100)) == entries[:100]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "tile/entries/000.p/2 is missing"),
        ({"tile/entries/000.p/2": encode_bundle([b"a"])}, "has 1 entries, and not 2"),
        ({"tile/entries/000.p/2": encode_bundle([b"a", b"bc"])[:-1]}, "ends in the middle of an entry"),
        ({"tile/entries/000.p/2": encode_bundle([b"a", b"bc"]) + b"\x00"}, "ends in the middle of an entry"),
    ],
)
def test_an_error_names_the_damaged_bundle(content: dict[str, bytes], message: str) -> None:
    with pytest.raises(LogDamaged, match=message):
        read_bundle(content.get, Tile(None, 0, 2))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=255))
def test_a_bundle_round_trip_preserves_entries(entries: list[bytes]) -> None:
    tile = Tile(None, 0, len(entries))
    assert read_bundle({tile.path: encode_bundle(entries)}.get, tile) == entries


def test_a_verifier_key_of_gos_note_package_is_parsed() -> None:
    # The key and note of the example in golang.org/x/mod/sumdb/note.
    verifier = Verifier.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert verifier.key_id.hex() == "c74f20a3"
    assert str(verifier) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKv"
        "qfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    with pytest.raises(InvalidNote, match="a checkpoint has an origin"):  # a valid signature, but not a checkpoint
        verifier.open(text)
    with pytest.raises(WrongSignature):
        verifier.open(text.replace("think", "thought"))


def test_a_note_is_verified_only_by_its_key() -> None:
    signer = Signer.generate("drw.test/audit")
    note = signer.sign(7, leaf_hash(b""))
    assert Signer.parse(signer.secret_text()).sign(7, leaf_hash(b"")) == note
    assert Verifier.parse(str(signer.verifier)).open(note) == Checkpoint("drw.test/audit", 7, leaf_hash(b""))
    with pytest.raises(WrongSignature):
        Signer.generate("drw.test/audit").verifier.open(note)
    with pytest.raises(WrongSignature):
        signer.verifier.open(note.replace("\n7\n", "\n8\n"))


def test_a_note_can_have_several_signatures() -> None:
    signer, witness = Signer.generate("drw.test/audit"), Signer.generate("witness.test")
    note = signer.sign(7, leaf_hash(b""))
    text = note.rpartition("\n\n")[0] + "\n"
    signature = base64.b64encode(witness.verifier.key_id + witness._key.sign(text.encode())).decode()
    assert signer.verifier.open(f"{note}\u2014 witness.test {signature}\n").size == 7
    with pytest.raises(InvalidNote, match="is of 'drw.test/audit', and not of 'witness.test'"):
        witness.verifier.open(f"{note}\u2014 witness.test {signature}\n")


@pytest.mark.parametrize("note", ["", "x", "a\n\n", "a\n\nb", "\n\n\n"])
def test_an_invalid_note_is_rejected(note: str) -> None:
    with pytest.raises((InvalidNote, WrongSignature)):
        Signer.generate("drw.test/audit").verifier.open(note)


@pytest.mark.parametrize("key", ["", "a", "a+b+c", "a b+00000000+AA==", "name+00000000+" + "AQ" + "A" * 42])
def test_an_invalid_key_is_rejected(key: str) -> None:
    with pytest.raises(InvalidNote):
        Verifier.parse(key)


@pytest.mark.parametrize("text", ["o\n07\nAA==\n", "o\n-1\nAA==\n", "o\n1\nAA==\n", "\n1\nAA==\n", "o\n\u0661\nAA==\n"])
def test_an_invalid_checkpoint_is_rejected(text: str) -> None:
    with pytest.raises(InvalidNote):
        Checkpoint.parse(text)
