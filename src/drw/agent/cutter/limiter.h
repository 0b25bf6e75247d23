/* Limits of requests a minute; see limiter.c. */
#pragma once

#include "proxy.h"

/* What is left of the tightest limit of a request; a limit of 0: none binds it. */
typedef struct Standing {
  u32 limit;
  u32 left;
  u32 resets; /* in how many seconds more is left, or where the request is refused, one may pass */
  u32 refused;
} Standing;

void limits_create(void);
void limits_clear(u32 count, u32 by_default);
void limits_add(u64 subject, u32 per_minute, u64 counter);

/* Counts a request of a key, a desk and an org; `refused` says whether it may pass. */
Standing limits_take(u64 key, u64 desk, u64 org);

/* Writes the headers of an answer that say what is left. */
void limits_tell(const Standing *standing);
