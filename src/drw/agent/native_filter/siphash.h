/* SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012), incremental. Callers choose
 * their names; the secret seed prevents chosen collisions. */
#pragma once

#include "envoy.h"

typedef struct Sip {
  u64 v[4];
  u64 word;
  size size;
} Sip;

static inline u64 rotate_left(u64 x, u32 bits) { return x << bits | x >> (64 - bits); }

static inline void sip_rounds(u64 v[4], u32 rounds) {
  while (rounds--) {
    v[0] += v[1], v[2] += v[3];
    v[1] = rotate_left(v[1], 13) ^ v[0], v[3] = rotate_left(v[3], 16) ^ v[2];
    v[0] = rotate_left(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotate_left(v[1], 17) ^ v[2], v[3] = rotate_left(v[3], 21) ^ v[0];
    v[2] = rotate_left(v[2], 32);
  }
}

static inline Sip sip_start(const u64 seed[2]) {
  return (Sip){.v = {seed[0] ^ 0x736f6d6570736575ull, seed[1] ^ 0x646f72616e646f6dull, seed[0] ^ 0x6c7967656e657261ull,
                     seed[1] ^ 0x7465646279746573ull}};
}

static inline void sip_word(Sip *sip, u64 word) { sip->v[3] ^= word, sip_rounds(sip->v, 2), sip->v[0] ^= word; }

static inline void sip_add(Sip *sip, Bytes input) {
  for (size i = 0; i < input.size; i++) {
    sip->word |= (u64)input.data[i] << 8 * (sip->size & 7);
    if ((sip->size++ & 7) == 7) {
      sip_word(sip, sip->word);
      sip->word = 0;
    }
  }
}

static inline u64 sip_finish(Sip *sip) {
  sip_word(sip, sip->word | (u64)sip->size << 56);
  sip->v[2] ^= 0xff, sip_rounds(sip->v, 4);
  return sip->v[0] ^ sip->v[1] ^ sip->v[2] ^ sip->v[3];
}
