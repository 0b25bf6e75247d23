/* SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012). Callers choose their names, and without
 * the seed nobody can choose one whose hash is another's. */
#pragma once

#include "proxy.h"

static inline u64 rotated(u64 x, u32 bits) { return x << bits | x >> (64 - bits); }

static inline void sip_rounds(u64 v[4], u32 rounds) {
  while (rounds--) {
    v[0] += v[1], v[2] += v[3];
    v[1] = rotated(v[1], 13) ^ v[0], v[3] = rotated(v[3], 16) ^ v[2];
    v[0] = rotated(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotated(v[1], 17) ^ v[2], v[3] = rotated(v[3], 21) ^ v[0];
    v[2] = rotated(v[2], 32);
  }
}

static inline u64 siphash(const u64 seed[2], const u8 *data, u32 size) {
  u64 v[4] = {seed[0] ^ 0x736f6d6570736575ull, seed[1] ^ 0x646f72616e646f6dull, seed[0] ^ 0x6c7967656e657261ull,
              seed[1] ^ 0x7465646279746573ull};
  u64 word = 0;
  for (u32 i = 0; i < size; i++) {
    word |= (u64)data[i] << 8 * (i & 7);
    if ((i & 7) == 7) {
      v[3] ^= word, sip_rounds(v, 2), v[0] ^= word;
      word = 0;
    }
  }
  word |= (u64)size << 56;
  v[3] ^= word, sip_rounds(v, 2), v[0] ^= word;
  v[2] ^= 0xff, sip_rounds(v, 4);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}
