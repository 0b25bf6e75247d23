/* Limits of requests a minute; see limiter.c. */
#pragma once

#include "envoy.h"

/* The limits in force, by the hash of whose they are. */
typedef struct Limits {
  u64 *subjects; /* open addressing; 0: free */
  u64 *counters; /* under which their requests are counted */
  u32 *per_minute;
  u32 mask;
  u32 by_default; /* of a key without a limit of its own; 0: none */
} Limits;

/* What is left of the tightest limit of a request; a limit of 0: none binds it. */
typedef struct Standing {
  u32 limit;
  u32 left;
  u32 resets; /* in how many seconds more is left, or where the request is refused, one may pass */
  u32 refused;
} Standing;

/* The headers of an answer that say what is left, and where their texts are. */
enum { MOST_TOLD = 9, MOST_TEXT = 64 };
typedef struct Told {
  Pair headers[MOST_TOLD];
  u8 adds[MOST_TOLD]; /* beside headers of the same name, not in their place */
  u32 count;
  u8 text[MOST_TOLD][MOST_TEXT];
} Told;

/* Counts a request of a key, a desk and an org; `refused` says whether it may pass. */
Standing limits_take(const Limits *limits, u64 key, u64 desk, u64 org);

void limits_tell(const Standing *standing, Told *told);

/* Tells of it in the headers of an answer. */
void limits_add(Filter filter, const Standing *standing);

/* Writes a number of up to ten digits, and returns where it ends. */
u8 *decimal(u8 *to, u32 value);
