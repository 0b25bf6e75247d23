"""SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012), as in siphash.h."""

from __future__ import annotations

WORD = (1 << 64) - 1


def siphash(seed: bytes, data: bytes) -> int:
    """Return the 64-bit hash of a byte string under a 16-byte seed."""
    k0, k1 = int.from_bytes(seed[:8], "little"), int.from_bytes(seed[8:16], "little")
    v = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v = _rounds((v[0], v[1], v[2], v[3] ^ word), 2)
        v = (v[0] ^ word, v[1], v[2], v[3])
    a, b, c, d = _rounds((v[0], v[1], v[2] ^ 0xFF, v[3]), 4)
    return a ^ b ^ c ^ d


def _rounds(v: tuple[int, int, int, int], rounds: int) -> tuple[int, int, int, int]:
    a, b, c, d = v
    for _ in range(rounds):
        a, c = (a + b) & WORD, (c + d) & WORD
        b, d = _rotated(b, 13) ^ a, _rotated(d, 16) ^ c
        a = _rotated(a, 32)
        c, a = (c + b) & WORD, (a + d) & WORD
        b, d = _rotated(b, 17) ^ c, _rotated(d, 21) ^ a
        c = _rotated(c, 32)
    return a, b, c, d


def _rotated(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) & WORD
